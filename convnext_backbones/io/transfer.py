"""Download a file over HTTP, and continue where an interrupted download stopped.

A download goes to ``.NAME.part``. Beside it, ``.NAME.part.json`` records the URL, the size and the
validator (ETag or Last-Modified) of the file on the server. The next attempt asks for the missing
bytes only, on condition that the file is still the recorded one (RFC 9110, If-Range). A server that
gives no validator gets no second chance: the download starts again.
"""

from __future__ import annotations

import hashlib
import http
import http.client
import json
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from mmengine.logging import print_log
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from .wording import address

# Bytes per read: small enough for a bar that moves on a slow connection.
CHUNK = 1 << 16
# Seconds without a byte after which a connection is given up.
TIMEOUT = 60
# Where there is no terminal, the log gets a line after each tenth of the file, but not more often
# than every 16 MiB, and at the latest after 30 seconds.
LOG_PARTS = 10
LOG_BYTES = 16 << 20
LOG_SECONDS = 30
NOT_SATISFIABLE = 416
HttpResponse = http.client.HTTPResponse


@dataclass(frozen=True)
class Version:
    """The version of a file on a server.

    Attributes:
        url: Its address.
        size: Its size in bytes.
        validator: Its ETag or the date of its last change, as the server spells it.
    """

    url: str
    size: int
    validator: str


def receive(
    url: str, part: Path, size: int | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Download ``url`` to ``part``, or the bytes that an earlier attempt has not received.

    Args:
        url: With http or https; redirections may not change the scheme.
        part: The file to write; it stays after a failure if the next attempt can continue it.
        size: Expected size in bytes; None takes the one that the server announces.
        headers: Sent with the request. ``Authorization`` is for the host of ``url`` only: it does
            not follow a redirection to another one.

    Returns:
        The number of bytes in ``part``, and their SHA-256 in hexadecimal.

    Raises:
        ValueError: The connection failed, or the size is not the expected one.
    """
    whole = False
    try:
        response, offset = _open(url, part, size, headers or {})
        with response:
            if not offset:
                discard(part)
            total = _expected_size(response, offset, url, size)
            if not offset:
                _keep_record(part, response, url)
            received, digest = _write(response, part, offset, total)
        whole = total in (None, received)
        if total is not None and not whole:
            if received > total:
                discard(part)
            raise ValueError(
                f'expected {total} bytes from {address(url)}, got '
                f'{"more" if received > total else received}; the download was interrupted or the '
                f'file is another one; {_next_attempt(part)}'
            )
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(
            f'cannot download {address(url)}: {_reason(error)}; check the connection, or download '
            f'the file by hand; {_next_attempt(part)}'
        ) from error
    finally:
        if not whole and not _record(part).exists():
            part.unlink(missing_ok=True)
    return received, digest


def ask(url: str, headers: Mapping[str, str]) -> tuple[int, Message]:
    """Return the status and the headers of a file, without the file.

    Args:
        url: With http or https. Redirections are followed within its host; one to another host,
            such as that of a content delivery network, is the answer.
        headers: Sent with the request.

    Raises:
        ValueError: The connection failed.
    """
    opener = urllib.request.build_opener(_RedirectsOfOneHost)
    request = urllib.request.Request(url, headers=dict(headers), method='HEAD')
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            return response.status, response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f'cannot download {address(url)}: {_reason(error)}') from error


def discard(part: Path) -> None:
    """Remove an unfinished download, and what is recorded of it."""
    _record(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def _open(
    url: str, part: Path, size: int | None, headers: Mapping[str, str]
) -> tuple[HttpResponse, int]:
    """Ask for the file, or for the rest of it if ``part`` holds its beginning.

    Returns:
        The response, and the number of bytes in ``part`` that it continues.
    """
    opener = urllib.request.build_opener(_SafeRedirects)
    version = _recorded_version(url, part, size)
    if version is not None:
        offset = part.stat().st_size
        condition = {'Range': f'bytes={offset}-', 'If-Range': version.validator, **headers}
        try:
            response = opener.open(urllib.request.Request(url, headers=condition), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != NOT_SATISFIABLE:
                raise
            error.close()
        else:
            if _continues(response, version, offset):
                return response, offset
            if response.status == http.HTTPStatus.OK:  # no ranges here, or the file has changed
                return response, 0
            response.close()
    return opener.open(urllib.request.Request(url, headers=dict(headers)), timeout=TIMEOUT), 0


def _continues(response: HttpResponse, version: Version, offset: int) -> bool:
    """Whether a response has all bytes of ``version`` from ``offset`` on."""
    place = re.fullmatch(
        r'bytes (\d+)-(\d+)/(\d+)', (response.headers['Content-Range'] or '').strip()
    )
    return (
        response.status == http.HTTPStatus.PARTIAL_CONTENT
        and place is not None
        and [int(number) for number in place.groups()] == [offset, version.size - 1, version.size]
        and _validator(response) in (None, version.validator)
    )


def _expected_size(response: HttpResponse, offset: int, url: str, size: int | None) -> int | None:
    """Return the size of the whole file; None where the protocol marks its end by itself.

    Raises:
        ValueError: The server announces another size than ``size``, or none that can be checked.
    """
    announced = None if response.length is None else offset + response.length
    if size is not None and announced is not None and announced != size:
        raise ValueError(
            f'expected {size} bytes from {address(url)}, the server announces {announced}; it is '
            'another file, so nothing was kept'
        )
    if size is None and announced is None and not getattr(response, 'chunked', False):
        raise ValueError(
            f'expected {address(url)} to announce its size, so that a truncated download can be '
            'told from a whole one; download the file by hand and give its path'
        )
    return announced if size is None else size


def _write(response: HttpResponse, part: Path, offset: int, total: int | None) -> tuple[int, str]:
    """Append a response to the first ``offset`` bytes of ``part``, stopping after ``total``."""
    digest, received = hashlib.sha256(), offset
    if offset:
        print_log(
            f'Continuing after {offset} of {total} bytes', logger='current', level=logging.INFO
        )
        with part.open('rb') as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    with part.open('ab' if offset else 'wb') as file, _progress(part, received, total) as report:
        while chunk := response.read(CHUNK):
            received += len(chunk)
            if total is not None and received > total:
                break
            digest.update(chunk)
            file.write(chunk)
            report(received)
    return received, digest.hexdigest()


# --- the record beside an unfinished download -----------------------------------------------


def _record(part: Path) -> Path:
    return part.with_name(f'{part.name}.json')


def _keep_record(part: Path, response: HttpResponse, url: str) -> None:
    """Record which version of the file a response has, if the next attempt could continue it."""
    validator, size = _validator(response), response.length
    if validator is not None and size is not None and response.headers['Accept-Ranges'] != 'none':
        _record(part).write_text(json.dumps(asdict(Version(url, size, validator))))


def _recorded_version(url: str, part: Path, size: int | None) -> Version | None:
    """Return what ``part`` is the beginning of, if a download of ``url`` can continue it."""
    try:
        version = Version(**json.loads(_record(part).read_text()))
        usable = version.url == url and size in (None, version.size)
        return version if usable and 0 < part.stat().st_size < version.size else None
    except (OSError, ValueError, TypeError):  # there is no record, or a crash left half of it
        return None


def _validator(response: HttpResponse) -> str | None:
    """Return the strong ETag of a response, or else the date of the last change."""
    tag = response.headers['ETag']
    if tag and not tag.startswith('W/'):
        return tag
    return response.headers['Last-Modified']


def _next_attempt(part: Path) -> str:
    """Say what another attempt will do."""
    if _record(part).exists() and part.exists():
        return f'{part.stat().st_size} bytes are kept, and the next attempt continues after them'
    return 'nothing was kept; try again'


# --- progress -------------------------------------------------------------------------------


@contextmanager
def _progress(part: Path, offset: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of bytes received so far.

    A terminal gets a bar with speed and remaining time; elsewhere the log gets a line now and then.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _LoggedProgress(offset, total)
        return
    columns = (
        *(TextColumn('{task.description}'), BarColumn(), DownloadColumn()),
        *(TransferSpeedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(part.name[1:].removesuffix('.part'), total=total, completed=offset)
        yield lambda received: progress.update(task, completed=received)


class _LoggedProgress:
    """Progress of a download as lines of the log.

    Args:
        offset: Bytes that were there before.
        total: Size of the file in bytes, where known.
    """

    def __init__(self, offset: int, total: int | None) -> None:
        self.total = total
        self.step = max((total or 0) / LOG_PARTS, LOG_BYTES)
        self.bytes, self.seconds = offset, time.monotonic()

    def __call__(self, received: int) -> None:
        """Log a line if it is time for one."""
        late = time.monotonic() >= self.seconds + LOG_SECONDS
        if received == self.total or not (late or received >= self.bytes + self.step):
            return
        of_total = (
            f' of {self.total} bytes ({received / self.total:.0%})' if self.total else ' bytes'
        )
        print_log(f'Received {received}{of_total}', logger='current', level=logging.INFO)
        self.bytes, self.seconds = received, time.monotonic()


# --- urllib ---------------------------------------------------------------------------------


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but not to another scheme, and tells other hosts no token."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request to follow with; called by urllib."""
        if urlsplit(newurl).scheme.lower() != urlsplit(req.full_url).scheme.lower():
            raise urllib.error.URLError(
                f'it redirects to another scheme, {newurl}, which is not followed'
            )
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and not _same_host(req.full_url, newurl):
            request.remove_header('Authorization')
        return request


class _RedirectsOfOneHost(urllib.request.HTTPRedirectHandler):
    """Follows redirections of a question for headers within its host; others are the answer."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request to follow with; called by urllib."""
        if not _same_host(req.full_url, newurl):
            return None
        return urllib.request.Request(newurl, headers=req.headers, method='HEAD')


def _same_host(url: str, other: str) -> bool:
    """Whether two URLs have scheme, host and port in common."""
    one, two = urlsplit(url), urlsplit(other)
    return (one.scheme, one.netloc.lower()) == (two.scheme, two.netloc.lower())


def _beginning(error: urllib.error.HTTPError) -> bytes:
    """Return the beginning of the body of an answer, as far as it can be read."""
    try:
        return error.read(CHUNK)
    except (OSError, http.client.HTTPException):
        return b''


def _reason(error: Exception) -> str:
    """Return the cause of a failed request in words."""
    if isinstance(error, urllib.error.HTTPError):
        answer = f'the server answers {error.code} {error.reason}'
        # What CloudFront and S3 answer to a signed link after its time.
        if error.code == http.HTTPStatus.FORBIDDEN and b'AccessDenied' in _beginning(error):
            return (
                f'{answer}, AccessDenied: a link with a signature expires after some days; ask for '
                'a new one where this one is from'
            )
        return answer
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
