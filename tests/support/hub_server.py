"""A server that answers like the Hugging Face hub, and the host of its files.

The hub itself answers at 127.0.0.1, and redirects to the files at localhost, another host. Each
repository says what it is by its name. Requests are recorded with their token.
"""

import hashlib
import re
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .file_server import CONTENT

COMMIT = '0123456789abcdef0123456789abcdef01234567'
TOKEN = 'hf_secret'
EXPIRED = 'hf_expired'
PLACE = re.compile(r'/([\w.-]+/[\w.-]+)/resolve/(?:main|[0-9a-f]{40})/([\w./-]+)')


class HubServer(ThreadingHTTPServer):
    """The hub.

    Attributes:
        files: Content by ``ORG/REPO/FILE``.
        gated: Repositories that ask for the token.
        renamed: New names of repositories.
        cuts: Where the next answers of the file host stop.
        broken: Whether the file host sends other bytes than the hub announces.
        short: How many bytes the file host has of the file; None for all.
        asked: Method, host, path and token of every request.
        status: What the hub answers to everything, if it is out of order.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.files = {'org/repo/model.safetensors': CONTENT}
        self.gated: set[str] = set()
        self.renamed: dict[str, str] = {}
        self.cuts: list[int] = []
        self.sent: list[int] = []
        self.broken = False
        self.short: int | None = None
        self.asked: list[tuple[str, str, str, str]] = []
        self.status = 0
        self.url = f'http://127.0.0.1:{self.server_port}'
        self.file_host = f'localhost:{self.server_port}'

    def requests(self, host: str = '') -> list[tuple[str, str]]:
        """Method and path of the requests to one of the two hosts."""
        return [(method, path) for method, at, path, _ in self.asked if host in at]

    def tokens(self, host: str) -> set[str]:
        """The tokens that one of the two hosts was told."""
        return {token for _, at, _, token in self.asked if host in at}


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_HEAD(self) -> None:
        self.close_connection = True
        host = self.headers['Host']
        token = self.headers.get('Authorization', '')
        self.server.asked.append((self.command, host, self.path, token))
        if host.startswith('localhost'):
            self.send_file(self.path.partition('?')[0].lstrip('/'))
        elif self.server.status:
            self.answer(self.server.status)
        else:
            self.answer_as_hub(token == f'Bearer {TOKEN}', bool(token))

    do_GET = do_HEAD

    def answer_as_hub(self, known: bool, token: bool) -> None:
        repo, file = PLACE.fullmatch(self.path.partition('?')[0]).groups()
        if EXPIRED in self.headers.get('Authorization', ''):
            message = 'Invalid credentials in Authorization header'
            self.answer(401, X_Error_Message=message)
        elif repo in self.server.renamed:
            moved = self.path.replace(repo, self.server.renamed[repo])
            self.answer(307, Location=moved)
        elif not any(place.startswith(f'{repo}/') for place in self.server.files):
            self.refuse(404 if token else 401, 'RepoNotFound', 'Repository not found')
        elif repo in self.server.gated and not known:
            self.refuse(403 if token else 401, 'GatedRepo', f'Access to {repo} is restricted')
        elif f'{repo}/{file}' not in self.server.files:
            self.refuse(404, 'EntryNotFound', 'Entry not found')
        elif file.endswith('.json'):  # small files are no links to another host
            content = self.server.files[f'{repo}/{file}']
            etag = hashlib.sha1(content).hexdigest()
            self.answer(200, content, len(content), ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
        else:
            content = self.server.files[f'{repo}/{file}']
            self.answer(
                302,
                Location=f'http://{self.server.file_host}/{repo}/{file}?Signature=x',
                X_Repo_Commit=COMMIT,
                X_Linked_Size=str(len(content)),
                X_Linked_Etag=f'"{hashlib.sha256(content).hexdigest()}"',
                ETag='"of the pointer"',
            )

    def refuse(self, status: int, code: str, message: str) -> None:
        self.answer(status, X_Error_Code=code, X_Error_Message=message)

    def send_file(self, place: str) -> None:
        """Send a file, or the rest of it, as a content delivery network does."""
        content = self.server.files[place]
        headers = {'ETag': f'"{hashlib.md5(content).hexdigest()}"', 'Accept-Ranges': 'bytes'}
        if self.server.broken:
            content = bytes(len(content))
        content = content[: self.server.short]
        start, status = 0, 200
        if asked := re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', '')):
            start, status = int(asked[1]), 206
            headers['Content-Range'] = f'bytes {start}-{len(content) - 1}/{len(content)}'
        body = content[start : self.server.cuts.pop(0) if self.server.cuts else None]
        self.server.sent.append(len(body))
        self.answer(status, body, len(content) - start, **headers)

    def answer(self, status: int, body: bytes = b'', length: int = 0, **headers: str) -> None:
        self.send_response(status)
        self.send_header('Content-Length', str(length))
        self.send_header('Connection', 'close')
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        if self.command == 'GET':
            with suppress(ConnectionError):
                self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


@contextmanager
def running(server: ThreadingHTTPServer):
    """Serve in a thread."""
    with server:
        threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}).start()
        try:
            yield server
        finally:
            server.shutdown()
