"""From a URL to a complete, checked file in a folder.

A download goes to a temporary file in the same folder, is checked, and is renamed when complete: a
file under its own name is complete, whatever interrupted the processes that fetched it. An
interrupted download is continued by the next attempt; see :mod:`.transfer`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from mmengine.logging import print_log

from .processes import first_process_first
from .transfer import discard, receive
from .wording import address

# Folders, separated as in PATH, that are searched for a file before anything is downloaded.
FOLDERS_VARIABLE = 'CONVNEXT_BACKBONES_WEIGHTS'
CACHE_VARIABLE = 'CONVNEXT_BACKBONES_CACHE'
OFFLINE_VARIABLE = 'CONVNEXT_BACKBONES_OFFLINE'
SCHEMES = ('http', 'https')
# The digest that many projects write into the name of a file; letters tell it from a date.
DIGEST_IN_NAME = re.compile(r'-(?=\d*[a-f])([0-9a-f]{8,64})\.\w+$')


def is_url(source: str) -> bool:
    """Whether ``source`` names a scheme, such as ``https://``."""
    return re.match(r'[A-Za-z][A-Za-z0-9+.-]*://', source) is not None


def url_file_name(url: str) -> str:
    """Return the name under which the file of ``url`` is kept: the last part of its path.

    Raises:
        ValueError: The scheme is not http or https, or the name cannot be used: it is empty or
            hidden, or would lead out of the folder.
    """
    parts = urlsplit(url)
    if parts.scheme.lower() not in SCHEMES or not parts.hostname:
        raise ValueError(f'expected a URL with http:// or https://, got {url!r}; or name a file')
    name = unquote(parts.path.rpartition('/')[2])
    if not name or name.startswith('.') or re.search(r'[/\\:\x00-\x1f]', name):
        raise ValueError(
            f'expected a URL whose last part is the plain name of a file, got {url!r} with the '
            f'name {name!r}; download it by hand and give its path'
        )
    return name


def find_or_fetch(
    url: str,
    size: int | None = None,
    sha256: str | None = None,
    check: Callable[[Path], object] | None = None,
    official: bool = False,
) -> Path:
    """Return the file of ``url`` on this machine, after downloading it if necessary.

    The folders of ``$CONVNEXT_BACKBONES_WEIGHTS`` are searched for its name first, then the
    cache: ``weights`` in ``$CONVNEXT_BACKBONES_CACHE``, by default
    ``~/.cache/convnext_backbones``. In a distributed run every process must call this function;
    the first process of each machine downloads.

    Args:
        url: With http or https.
        size: As in :func:`fetch`.
        sha256: As in :func:`fetch`.
        check: As in :func:`fetch`.
        official: Whether the name alone identifies the file. Other sites may give different files
            the same name, so each of their URLs gets a folder of its own.

    Raises:
        FileNotFoundError: It is not here, and ``CONVNEXT_BACKBONES_OFFLINE=1`` forbids the
            download.
        ValueError: As in :func:`fetch`.
    """
    folders = _folders(url, official)

    def find() -> Path:
        found = find_downloaded(url, official)
        if found is not None:
            return found
        if not may_download():
            raise FileNotFoundError(
                f'expected {url_file_name(url)!r} on this machine, because {OFFLINE_VARIABLE} is '
                f'set; download {address(url)} elsewhere and put it into the folder '
                f'{str(folders[0])!r}'
            )
        return fetch(url, folders[-1], size, sha256, check)

    return first_process_first(find)


def find_downloaded(url: str, official: bool = False) -> Path | None:
    """Return the file that :func:`find_or_fetch` would find; None if it would download it.

    Args:
        url: With http or https.
        official: As in :func:`find_or_fetch`.

    Raises:
        ValueError: The URL cannot be used.
    """
    name = url_file_name(url)
    places = (folder / name for folder in _folders(url, official))
    return next((place for place in places if place.is_file()), None)


def may_download() -> bool:
    """Whether the environment allows downloads of weights."""
    return os.environ.get(OFFLINE_VARIABLE, '0') in ('', '0')


def cache_folder() -> Path:
    """Return the user's folder for what can be made or downloaded again; it may not exist.

    Without a home folder, as in some containers, it is in the folder for temporary files.
    """
    named = os.environ.get(CACHE_VARIABLE)
    home = os.environ.get('XDG_CACHE_HOME')
    try:
        cache = Path(named or Path(home or Path.home() / '.cache') / 'convnext_backbones')
        return cache.expanduser().absolute()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f'convnext_backbones-{os.getuid()}'


def weight_folders() -> list[Path]:
    """Return the folders to search for weights; downloads go to the last one, the cache."""
    own = filter(None, os.environ.get(FOLDERS_VARIABLE, '').split(os.pathsep))
    return [*(Path(folder).expanduser() for folder in own), cache_folder() / 'weights']


def _folders(url: str, official: bool) -> list[Path]:
    """Return the folders to search for the file of ``url``; downloads go to the last one."""
    *own, cache = weight_folders()
    return [*own, cache if official else cache / hashlib.sha256(url.encode()).hexdigest()[:16]]


def fetch(
    url: str,
    folder: str | os.PathLike,
    size: int | None = None,
    sha256: str | None = None,
    check: Callable[[Path], object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Path:
    """Download ``url`` into ``folder`` unless it is there, and return the path of the file.

    Processes of one machine that need the same file wait for the one that downloads it. A terminal
    shows a progress bar; elsewhere the log gets a line now and then.

    Args:
        url: With http or https; redirections may not change the scheme.
        folder: Created if it does not exist.
        size: Its size in bytes, if known.
        sha256: Its digest or the beginning of it, if known; a digest that is part of the file's
            name, as in ``model-050731f4.pth``, is checked in any case.
        check: Called with the path of the complete file before it gets its name; raises ValueError.
        headers: Sent with the request, ``Authorization`` to the host of ``url`` only.

    Raises:
        ValueError: The URL cannot be used, the download failed, or the file is not the expected
            one. Of an interrupted download, the received bytes stay in ``folder`` if the server
            allows the next attempt to continue it; otherwise nothing stays.
    """
    name = url_file_name(url)
    path = Path(folder).expanduser() / name
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f'.{name}.lock')):
            if not path.is_file():  # another process may have fetched it meanwhile
                _download(url, path, size, _expected_digests(name, sha256), check, headers)
    except OSError as error:
        raise ValueError(
            f'cannot keep {address(url)} in the folder {str(path.parent)!r}: {error}; choose '
            'another folder'
        ) from error
    return path


def _download(
    url: str,
    path: Path,
    size: int | None,
    digests: list[str],
    check: Callable[[Path], object] | None,
    headers: Mapping[str, str] | None,
) -> None:
    """Download ``url`` to ``path``; see :func:`fetch`."""
    print_log(f'Downloading {address(url)} to {path}', logger='current', level=logging.INFO)
    start = time.monotonic()
    # Always the same name, so that the next process finds what a killed one left.
    part = path.with_name(f'.{path.name}.part')
    received, digest = receive(url, part, size, headers)
    try:
        wrong = [expected for expected in digests if not digest.startswith(expected)]
        if wrong:
            raise ValueError(
                f'expected a file with the SHA-256 {wrong[0]}, got {digest} from {address(url)}; '
                'it was not kept'
            )
        try:
            if check is not None:
                check(part)
        except ValueError as error:
            raise ValueError(f'what {address(url)} sent was not kept: {error}') from error
        os.replace(part, path)
    finally:
        discard(part)
    print_log(
        f'Downloaded {received} bytes in {time.monotonic() - start:.1f} s, SHA-256 {digest}',
        logger='current',
        level=logging.INFO,
    )


def _expected_digests(name: str, sha256: str | None) -> list[str]:
    """Return the digests, or beginnings of digests, that a file of this name must have."""
    found = DIGEST_IN_NAME.search(name)
    return [digest.lower() for digest in (sha256, found and found[1]) if digest]
