"""From the name of weights to their local file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..io.checkpoint import check_container
from ..io.download import (
    SCHEMES,
    find_downloaded,
    find_or_fetch,
    is_url,
    may_download,
    weight_folders,
)
from ..io.hub import (
    FILES,
    HubPlace,
    find_in_hub_caches,
    find_or_fetch_from_hub,
    split_hub_name,
    split_hub_url,
)
from .published import PUBLISHED, PublishedWeights, hint, published_name

__all__ = ['PUBLISHED', 'PublishedWeights', 'local_file', 'weights_file']

DINOV3_FORM = 'https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/'


class Source(NamedTuple):
    """How to get at weights that are named by anything but the path of a file.

    Attributes:
        find: Returns their file on this machine, or None.
        fetch: The same, after downloading it if necessary.
    """

    find: Callable[[], Path | None]
    fetch: Callable[[], Path]


def weights_file(source: str | os.PathLike) -> Path:
    """Return the local file of ``source``, after downloading it if necessary.

    See :func:`~convnext_backbones.io.download.find_or_fetch` for the folders, and
    :func:`~convnext_backbones.io.hub.find_in_hub_caches` for those of the hub.

    Args:
        source: The path of a file, which comes first; a name of :data:`PUBLISHED` or what
            :func:`~convnext_backbones.weights.published.find_published` understands; a folder with
            a file of a usual name, see :func:`usual_file`; a repository of the Hugging Face hub,
            ``ORG/REPO`` or ``ORG/REPO/FILE``; or a URL.

    Raises:
        FileNotFoundError: There is no such name or file, or it may not be downloaded.
        ValueError: The URL cannot be used, or the download failed.
    """
    found = _locate(os.fspath(source))
    return found if isinstance(found, Path) else found.fetch()


def local_file(source: str) -> Path | None:
    """Return the file of weights on this machine; None if training would download it.

    Args:
        source: As in :func:`weights_file`.

    Raises:
        FileNotFoundError: Training would not find the file either.
        ValueError: The URL cannot be used.
    """
    if is_url(source) and not source.lower().startswith(SCHEMES):
        return None  # such as torchvision://resnet50, which mmengine looks up
    found = _locate(source)
    if isinstance(found, Path):
        return found
    here = found.find()
    return here if here or may_download() else found.fetch()


def _locate(source: str) -> Path | Source:
    """Return the file that ``source`` names, or the way to it.

    Raises:
        FileNotFoundError: It names nothing.
    """
    path = Path(source).expanduser()
    if os.path.isfile(path):  # unlike a path's own method, it takes names of any length
        return path
    if (place := split_hub_url(source)) is not None:
        # As by name: with the token, the cache and the sentences of the hub.
        source = f'hf-hub:{"/".join(filter(None, place))}'
    name = published_name(source)
    if name is not None and not is_url(source):
        return _published(name, source)
    if is_url(source):
        # The digest in the names of Meta's files, whose links change, tells that it is the file.
        official = name is not None and PUBLISHED[name].origin == 'meta'
        return _at_address(source, official=official)
    if (usual := usual_file(path)) is not None:
        return usual
    place = split_hub_name(source)
    if place is not None and not os.path.exists(Path(source).parts[0]):
        return _on_hub(place, hint(source))
    if os.path.exists(path):
        return path
    advice = hint(source)
    if place is not None and not place.file:  # asked for, but for the folder here
        advice = f'; for the repository of the hub write {f"hf-hub:{source}"!r}'
    raise FileNotFoundError(
        f'expected the name of published weights, a file or a URL, found nothing at '
        f'{source!r}{advice}'
    )


def usual_file(folder: str | os.PathLike) -> Path | None:
    """Return the weights in a folder under a name that repositories of the hub have for them.

    None if there is no such file: of several other files it is not known which is meant.
    """
    paths = (Path(folder, name) for name in FILES)
    return next((path for path in paths if os.path.isfile(path)), None)


def _published(name: str, source: str) -> Path | Source:
    """Return the file of published weights, or the way to it.

    Raises:
        FileNotFoundError: They cannot be downloaded, and are not on this machine.
    """
    published = PUBLISHED[name]
    if published.url is not None:
        return _at_address(published.url, published.size, published.sha256, official=True)
    if published.repo is not None:
        named = split_hub_name(source)
        file = named.file if named is not None and named.file else published.file
        return _on_hub(HubPlace(published.repo, file or ''), copy=published.copy)
    if published.file is None:
        raise FileNotFoundError(f'cannot find weights of {name!r}: {published.obstacle}')
    for folder in weight_folders():
        if (folder / published.file).is_file():
            return folder / published.file
    raise FileNotFoundError(
        f'expected {published.file!r} on this machine, because it has no public address; ask for a '
        f'link at {DINOV3_FORM} and give that link instead of the name, or put the file into the '
        f'folder {str(weight_folders()[0])!r}; {published.copy!r} has the same weights'
    )


def _at_address(
    url: str, size: int | None = None, sha256: str | None = None, official: bool = False
) -> Source:
    return Source(
        lambda: find_downloaded(url, official),
        lambda: find_or_fetch(url, size, sha256, check_container, official),
    )


def _on_hub(place: HubPlace, close: str = '', copy: str = '') -> Source:
    return Source(
        lambda: find_in_hub_caches(place),
        lambda: find_or_fetch_from_hub(place, check_container, close, copy),
    )
