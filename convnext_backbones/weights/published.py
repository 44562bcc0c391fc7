"""Published weights by name: the authors', and what others trained or converted.

``PUBLISHED`` has a row per file. Names are the authors' file names without ending, or repositories
of the Hugging Face hub. Facts that nobody states, such as most sizes and digests, are left out.
"""

from __future__ import annotations

import difflib
import re
from pathlib import PurePath
from typing import Any
from urllib.parse import unquote, urlsplit

from ..io.hub import FILE_NAME, FILES, PREFIX, split_hub_name, split_hub_url
from .published_distilled import dinov3, eupe, open_clip, vicregl
from .published_timm import DEPRECATED, timm_tags
from .published_v1 import downstream, keras, transformers, v1
from .published_v2 import mmpretrain, v2
from .rows import PublishedWeights

__all__ = ['PUBLISHED', 'PublishedWeights', 'close_names', 'find_published', 'preprocessing']

PUBLISHED: dict[str, PublishedWeights] = {
    **v1(),
    **downstream(),
    **v2(),
    **mmpretrain(),
    **dinov3(),
    **eupe(),
    **vicregl(),
    **timm_tags(),
    **transformers(),
    **open_clip(),
    **keras(),
}
# The cache of huggingface_hub keeps ORG/REPO in the folder models--ORG--REPO.
CACHED = 'models--'
# Some files have another name there than here.
URLS = {one.url: name for name, one in PUBLISHED.items() if one.url}


# --- looking up -----------------------------------------------------------------------------


def find_published(name: str) -> PublishedWeights | None:
    """Return what is known of published weights; None for a name, file or URL that is not known.

    Args:
        name: A name of :data:`PUBLISHED`, with or without ``hf-hub:`` or a file of the repository;
            a tag of timm, also a deprecated one; the URL of a published file, whatever its query;
            or the path of a file that still has its published name, or the usual name in a folder
            of its repository.
    """
    known = published_name(name)
    if known is None and FILE_NAME.search(name):
        path = PurePath(name)
        known = _repository_of(path) if path.name in FILES else published_name(path.stem)
    return PUBLISHED.get(known or '')


def _repository_of(path: PurePath) -> str:
    """Return the repository by the folder of a file: ``ORG/REPO``, or one of the hub's cache."""
    cached = [part for part in path.parts if part.startswith(CACHED)]
    if cached:
        return cached[-1].removeprefix(CACHED).replace('--', '/')
    return '/'.join(path.parts[-3:-1])


def published_name(name: str) -> str | None:
    """Return the name in :data:`PUBLISHED` that ``name`` stands for; None if there is none."""
    if name in PUBLISHED:
        return name
    if (place := split_hub_url(name)) is not None:
        return place.repo if place.repo in PUBLISHED else None
    if re.match(r'https?://', name, re.IGNORECASE):
        parts = urlsplit(name)
        if (address := parts._replace(query='', fragment='').geturl()) in URLS:
            return URLS[address]
        path = unquote(parts.path)
        repo = re.match(r'/([^/]+/[^/]+)/(resolve|blob)/', path)
        stem = repo[1] if repo else path.rpartition('/')[2].rpartition('.')[0]
        return stem if stem in PUBLISHED else None
    bare = name.removeprefix('timm/')
    tag = f'timm/{DEPRECATED.get(bare, bare)}'
    if tag in PUBLISHED:
        return tag
    place = split_hub_name(name)
    return place.repo if place is not None and place.repo in PUBLISHED else None


def close_names(name: str, count: int = 3) -> list[str]:
    """Return the published names that begin with ``name``, or else those most like it."""
    names = {_bare(known): known for known in PUBLISHED}
    wanted = _bare(FILE_NAME.sub('', PREFIX.sub('', name)))
    longer = [bare for bare in names if len(wanted) > 3 and bare.startswith(wanted)]
    close = difflib.get_close_matches(wanted, names, n=count)
    return [names[bare] for bare in dict.fromkeys([*longer, *close])][:count]


def _bare(name: str) -> str:
    """Return a name without its organization, in one spelling."""
    return name.rpartition('/')[2].lower().replace('-', '_')


def preprocessing(name: str) -> dict[str, Any]:
    """Return what a ``data_preprocessor`` of mmdet or mmseg needs for published weights.

    Args:
        name: As in :func:`find_published`.

    Raises:
        ValueError: There are no published weights of that name.
    """
    published = find_published(name)
    if published is None:
        raise ValueError(f'expected the name of published weights, got {name!r}{hint(name)}')
    return dict(mean=list(published.mean), std=list(published.std), bgr_to_rgb=True)


def hint(name: str) -> str:
    """Return the end of a sentence that names what is most like ``name``."""
    close = close_names(name)
    if not close:
        return '; `python -m convnext_backbones.weights list` lists them'
    return f'; did you mean {" or ".join(map(repr, close))}?'
