"""A file server that answers as well, or as badly, as a test asks for."""

import hashlib
import re
import threading
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers by the first part of the path; counts requests per path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.requests = Counter()
        # Of the route `versioned`: what tells the versions of the file apart, what it understands
        # of a request for the rest of it, where its first answers stop, and what they sent.
        self.validators = {'ETag': '"{digest}"'}
        self.understands = 'If-Range'
        self.cuts: list[int] = []
        self.sent: list[int] = []
        self.go_on = threading.Event()
        self.content = CONTENT
        self.url = f'http://127.0.0.1:{self.server_port}'


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        self.close_connection = True
        getattr(self, self.path.split('/')[1])()

    def answer(self, body: bytes, length: int | None, status: int = 200, **headers) -> None:
        self.send_response(status)
        if length is not None:
            headers['Content-Length'] = str(length)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        with suppress(ConnectionError):  # who asked may have been killed, or had enough
            self.wfile.write(body)

    def whole(self) -> None:
        self.answer(self.server.content, len(self.server.content))

    def versioned(self) -> None:
        """Send the file, or the rest of it, with a validator."""
        content, size = self.server.content, len(self.server.content)
        digest = hashlib.sha256(content).hexdigest()
        headers = {
            name: text.format(digest=digest) for name, text in self.server.validators.items()
        }
        start, status = 0, 200
        if asked := re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', '')):
            unchanged = self.headers['If-Range'] in headers.values()
            if self.server.understands == 'nothing at all':
                self.server.sent.append(0)
                self.answer(b'', 0, status=416)
                return
            if self.server.understands in ('Range', 'another range') or (
                self.server.understands == 'If-Range' and unchanged
            ):
                start, status = int(asked[1]), 206
                if self.server.understands == 'another range':
                    start -= 1
                headers['Content-Range'] = f'bytes {start}-{size - 1}/{size}'
        body = content[start : self.server.cuts.pop(0) if self.server.cuts else None]
        self.server.sent.append(len(body))
        self.answer(body, size - start, status, **headers)
        if self.server.understands == 'waiting':
            self.wfile.flush()
            self.server.go_on.wait(30)

    def cut(self) -> None:
        self.answer(CONTENT[:5000], len(CONTENT))

    def silent(self) -> None:
        self.answer(CONTENT, None)

    def chunked(self, end: bytes = b'0\r\n\r\n') -> None:
        self.answer(
            b'%x\r\n%s\r\n' % (len(CONTENT), CONTENT) + end, None, Transfer_Encoding='chunked'
        )

    def chunked_cut(self) -> None:
        self.chunked(end=b'')

    def page(self) -> None:
        self.answer(b'<!DOCTYPE html>Sign in', 22, Content_Type='text/html')

    def slow(self) -> None:
        self.answer(CONTENT[:5000], len(CONTENT))
        self.wfile.flush()
        self.server.go_on.wait(30)
        with suppress(ConnectionError):  # who asked may have been killed
            self.wfile.write(CONTENT[5000:])

    def absent(self) -> None:
        self.answer(b'', 0, status=404)

    def expired(self) -> None:
        body = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'
        self.answer(body, len(body), status=403, Content_Type='application/xml')

    def moved(self) -> None:
        self.answer(b'', 0, status=302, Location=self.path.replace('moved', 'whole'))

    def to_file(self) -> None:
        self.answer(b'', 0, status=302, Location='file:///etc/hostname')

    def to_https(self) -> None:
        host = self.headers['Host']
        self.answer(b'', 0, status=302, Location=f'https://{host}/whole/a.pth')

    def log_message(self, *args) -> None:
        pass


def left_in(folder: Path) -> list[str]:
    """What a download leaves, except for the empty file that processes lock."""
    return [path.name for path in folder.rglob('*') if path.suffix != '.lock' and path.is_file()]
