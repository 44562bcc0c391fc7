"""From a URL to a whole, checked file in a folder.

What arrives goes to a temporary file beside its place, is checked, and is renamed when whole: a
file under its own name is complete, whatever interrupted the processes that fetched it.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from mmengine.dist import all_gather_object, get_rank, is_distributed
from mmengine.logging import print_log

# Folders, separated as in PATH, that are searched for a file before anything is downloaded.
FOLDERS_VARIABLE = 'CONVNEXT_BACKBONES_WEIGHTS'
CACHE_VARIABLE = 'CONVNEXT_BACKBONES_CACHE'
OFFLINE_VARIABLE = 'CONVNEXT_BACKBONES_OFFLINE'
SCHEMES = ('http', 'https')
CHUNK = 1 << 20
# Seconds without a byte after which a connection is given up.
TIMEOUT = 60
# The digest that many projects write into the name of a file; letters tell it from a date.
DIGEST_IN_NAME = re.compile(r'-(?=\d*[a-f])([0-9a-f]{8,64})\.\w+$')


def is_url(source: str) -> bool:
    """Whether ``source`` names a scheme, such as ``https://``."""
    return re.match(r'[A-Za-z][A-Za-z0-9+.-]*://', source) is not None


def url_file_name(url: str) -> str:
    """The name under which the file of ``url`` is kept: the last part of its path.

    Raises:
        ValueError: The scheme is not http or https, or the name is none: it is empty or hidden,
            or would lead out of the folder.
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
    check: Callable[[Path], None] | None = None,
    official: bool = False,
) -> Path:
    """The file of ``url`` on this machine, downloaded if need be.

    The folders of ``$CONVNEXT_BACKBONES_WEIGHTS`` are searched for its name first, then the
    cache: ``weights`` in ``$CONVNEXT_BACKBONES_CACHE``, by default
    ``~/.cache/convnext_backbones``. In a distributed run rank 0 downloads, and every process has
    to call this.

    Args:
        url: With http or https.
        size: As in :func:`fetch`.
        sha256: As in :func:`fetch`.
        check: As in :func:`fetch`.
        official: Whether the name alone says which file it is. Other sites may give different
            files the same name, so they get a folder of their own per URL.

    Raises:
        FileNotFoundError: It is not here, and ``CONVNEXT_BACKBONES_OFFLINE=1`` forbids to
            download it.
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
                f'set; download {url} elsewhere and put it into the folder {str(folders[0])!r}'
            )
        return fetch(url, folders[-1], size, sha256, check)

    return on_first_process(find)


def find_downloaded(url: str, official: bool = False) -> Path | None:
    """The file that :func:`find_or_fetch` would find for ``url``; None if it would download it.

    Args:
        url: With http or https.
        official: As in :func:`find_or_fetch`.

    Raises:
        ValueError: The URL is of no use.
    """
    name = url_file_name(url)
    places = (folder / name for folder in _folders(url, official))
    return next((place for place in places if place.is_file()), None)


def may_download() -> bool:
    """Whether the environment lets weights be downloaded."""
    return os.environ.get(OFFLINE_VARIABLE, '0') in ('', '0')


def _folders(url: str, official: bool) -> list[Path]:
    """Where the file of ``url`` may be; the last is where it is downloaded to."""
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    cache = Path(os.environ.get(CACHE_VARIABLE) or Path(home) / 'convnext_backbones')
    cache = cache.expanduser().absolute() / 'weights'
    if not official:
        cache /= hashlib.sha256(url.encode()).hexdigest()[:16]
    own = filter(None, os.environ.get(FOLDERS_VARIABLE, '').split(os.pathsep))
    return [*(Path(folder).expanduser() for folder in own), cache]


def fetch(
    url: str,
    folder: str | os.PathLike,
    size: int | None = None,
    sha256: str | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Download ``url`` into ``folder`` unless it is there, and return the path of the file.

    Processes of one machine that want the same file wait for the one that downloads it.

    Args:
        url: With http or https; redirections may not change the scheme.
        folder: Created if it does not exist.
        size: Its size in bytes, where known.
        sha256: Its digest or the beginning of it, where known; a digest that is part of the
            file's name, as in ``model-050731f4.pth``, is checked in any case.
        check: Called with the path of the whole file before it gets its name; raises ValueError.

    Raises:
        ValueError: The URL is of no use, the download failed, or what came is not what was
            expected; nothing is left in ``folder``.
    """
    name = url_file_name(url)
    path = Path(folder).expanduser() / name
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f'.{name}.lock')):
            if not path.is_file():  # another process may have fetched it meanwhile
                _download(url, path, size, _wanted_digests(name, sha256), check)
    except OSError as error:
        raise ValueError(
            f'cannot keep {url} in the folder {str(path.parent)!r}: {error}; choose another folder'
        ) from error
    return path


def on_first_process(action: Callable[[], Path]) -> Path:
    """Call ``action`` on rank 0 first, then on the others, which find its file.

    In a run over machines that do not share a disk, the first process of each machine downloads.
    Where it fails, every process raises what rank 0 raises, and none waits for ever.
    """
    if not is_distributed():
        return action()
    first = int(os.environ.get('LOCAL_RANK', get_rank())) == 0
    path, failure = None, None
    for turn in (True, False):
        if first is turn and failure is None:
            try:
                path = action()
            except (ValueError, OSError) as error:
                failure = error
        failure = next(filter(None, all_gather_object(failure)), None)
    if failure is not None:
        raise failure
    return path


def _download(
    url: str,
    path: Path,
    size: int | None,
    digests: list[str],
    check: Callable[[Path], None] | None,
) -> None:
    print_log(f'Downloading {url} to {path}', logger='current', level=logging.INFO)
    start = time.monotonic()
    # Always the same name, so that what a killed process left is overwritten by the next.
    temporary = path.with_name(f'.{path.name}.part')
    try:
        with temporary.open('wb') as file:
            received, digest = _receive(url, file, size)
        wrong = [wanted for wanted in digests if not digest.startswith(wanted)]
        if wrong:
            raise ValueError(
                f'expected a file with the SHA-256 {wrong[0]}, got {digest} from {url}; it was '
                'not kept'
            )
        try:
            if check is not None:
                check(temporary)
        except ValueError as error:
            raise ValueError(f'what {url} sent was not kept: {error}') from error
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    print_log(
        f'Downloaded {received} bytes in {time.monotonic() - start:.1f} s, SHA-256 {digest}',
        logger='current',
        level=logging.INFO,
    )


def _receive(url: str, file, size: int | None) -> tuple[int, str]:
    """Write what ``url`` sends to ``file``; the number of bytes and their SHA-256."""
    opener = urllib.request.build_opener(_SameSchemeRedirects)
    hasher, received = hashlib.sha256(), 0
    try:
        with opener.open(url, timeout=TIMEOUT) as response:
            expected = _expected_size(response, url, size)
            while chunk := response.read(CHUNK):
                received += len(chunk)
                if expected is not None and received > expected:
                    break
                hasher.update(chunk)
                file.write(chunk)
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(
            f'cannot download {url}: {_reason(error)}; check the connection, or download the file '
            'by hand'
        ) from error
    if expected is not None and received != expected:
        raise ValueError(
            f'expected {expected} bytes from {url}, got '
            f'{"more" if received > expected else received}; the download was interrupted or the '
            'file is another one, and nothing was kept; try again'
        )
    return received, hasher.hexdigest()


def _expected_size(response: http.client.HTTPResponse, url: str, size: int | None) -> int | None:
    """How many bytes must come; None where the protocol marks the end by itself."""
    declared = response.length
    if size is not None and declared is not None and declared != size:
        raise ValueError(
            f'expected {size} bytes from {url}, the server announces {declared}; it is another '
            'file, so nothing was kept'
        )
    if size is None and declared is None and not response.chunked:
        raise ValueError(
            f'expected {url} to announce its size, so that a truncated download can be told from '
            'a whole one; download the file by hand and give its path'
        )
    return declared if size is None else size


class _SameSchemeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but not to another scheme, such as from https to http or a file."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """urllib's hook."""
        if urlsplit(newurl).scheme.lower() != urlsplit(req.full_url).scheme.lower():
            raise urllib.error.URLError(
                f'it redirects to another scheme, {newurl}, which is not followed'
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _wanted_digests(name: str, sha256: str | None) -> list[str]:
    found = DIGEST_IN_NAME.search(name)
    return [digest.lower() for digest in (sha256, found and found[1]) if digest]


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f'the server answers {error.code} {error.reason}'
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
