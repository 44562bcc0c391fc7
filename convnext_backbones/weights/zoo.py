"""Names and addresses of published weights, and their local files."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from ..io.checkpoint import check_container
from ..io.download import SCHEMES, find_downloaded, find_or_fetch, is_url, may_download


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights that the authors published.

    Attributes:
        url: Its address.
        size: Its size in bytes; None if it is not known.
        sha256: Its digest in hexadecimal; None if it is not known.
    """

    url: str
    size: int | None = None
    sha256: str | None = None


# The model zoo of https://github.com/facebookresearch/ConvNeXt, by folder. The authors publish
# neither sizes nor digests. Detectors and segmentors start from the files without `_ema`.
PUBLISHED: dict[str, PublishedWeights] = {
    name: PublishedWeights(f'https://dl.fbaipublicfiles.com/convnext/{folder}{name}.pth')
    for folder, names in {
        '': (
            'convnext_tiny_1k_224',
            'convnext_small_1k_224',
            'convnext_base_1k_224',
            'convnext_tiny_1k_224_ema',
            'convnext_small_1k_224_ema',
            'convnext_base_1k_224_ema',
            'convnext_large_1k_224_ema',
            'convnext_base_1k_384',
            'convnext_large_1k_384',
            'convnext_tiny_22k_224',
            'convnext_small_22k_224',
            'convnext_base_22k_224',
            'convnext_large_22k_224',
            'convnext_xlarge_22k_224',
            'convnext_tiny_22k_1k_224',
            'convnext_small_22k_1k_224',
            'convnext_base_22k_1k_224',
            'convnext_large_22k_1k_224',
            'convnext_xlarge_22k_1k_224_ema',
            'convnext_tiny_22k_1k_384',
            'convnext_small_22k_1k_384',
            'convnext_base_22k_1k_384',
            'convnext_large_22k_1k_384',
            'convnext_xlarge_22k_1k_384_ema',
        ),
        'coco/': (
            'mask_rcnn_convnext_tiny_1k_3x',
            'cascade_mask_rcnn_convnext_tiny_1k_3x',
            'cascade_mask_rcnn_convnext_small_1k_3x',
            'cascade_mask_rcnn_convnext_base_1k_3x',
            'cascade_mask_rcnn_convnext_base_22k_3x',
            'cascade_mask_rcnn_convnext_large_22k_3x',
            'cascade_mask_rcnn_convnext_xlarge_22k_3x',
        ),
        'ade20k/': (
            'upernet_convnext_tiny_1k_512x512',
            'upernet_convnext_small_1k_512x512',
            'upernet_convnext_base_1k_512x512',
            'upernet_convnext_base_22k_640x640',
            'upernet_convnext_large_22k_640x640',
            'upernet_convnext_xlarge_22k_640x640',
        ),
    }.items()
    for name in names
}


def weights_file(source: str | os.PathLike) -> Path:
    """Return the local file of ``source``, after downloading it if necessary.

    See :func:`~convnext_backbones.io.download.find_or_fetch` for the folders.

    Args:
        source: A name of :data:`PUBLISHED`, the path of a file, or a URL.

    Raises:
        FileNotFoundError: There is no such name or file, or it may not be downloaded.
        ValueError: The URL cannot be used, or the download failed.
    """
    source = os.fspath(source)
    published = PUBLISHED.get(source)
    if published is not None:
        return find_or_fetch(
            published.url, published.size, published.sha256, check_container, official=True
        )
    if is_url(source):
        return find_or_fetch(source, check=check_container)
    path = Path(source).expanduser()
    if not path.exists():
        close = difflib.get_close_matches(path.stem, PUBLISHED, n=1)
        hint = f'did you mean {close[0]!r}?' if close else 'see convnext_backbones.PUBLISHED'
        raise FileNotFoundError(
            f'expected the name of published weights, a file or a URL, found nothing at '
            f'{source!r}; {hint}'
        )
    return path


def local_file(source: str) -> Path | None:
    """Return the file of weights on this machine; None if training would download it.

    Args:
        source: A name of :data:`PUBLISHED`, the path of a file, or a URL.

    Raises:
        FileNotFoundError: Training would not find the file either.
        ValueError: The URL cannot be used.
    """
    published = PUBLISHED.get(source)
    if published is not None:
        found = find_downloaded(published.url, official=True)
    elif not is_url(source):
        return weights_file(source)
    elif source.lower().startswith(SCHEMES):
        found = find_downloaded(source)
    else:
        return None  # such as torchvision://resnet50, which mmengine looks up
    return found if found or may_download() else weights_file(source)
