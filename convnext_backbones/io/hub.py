"""Files of the Hugging Face hub: found on this machine, or fetched.

With huggingface_hub installed (the extra ``hub``) files go through it and its cache, which timm and
transformers share. Without it they are downloaded like any other URL. Both ways search the folders
of ``$CONVNEXT_BACKBONES_WEIGHTS`` first, and fail with the same sentences.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from .download import OFFLINE_VARIABLE, fetch, may_download, weight_folders
from .processes import first_process_first
from .transfer import ask

HUB = 'https://huggingface.co'
# The names of weights in a repository, best first: of timm and transformers, of open_clip.
FILES = (
    'model.safetensors',
    'pytorch_model.bin',
    'open_clip_model.safetensors',
    'open_clip_pytorch_model.bin',
)
# A repository may also be a single file of a folder, with one of these endings.
ENDINGS = ('.safetensors', '.bin', '.pth')
PART = r'[A-Za-z0-9][\w.-]*'
NAME = re.compile(rf'({PART}/{PART})((?:/{PART})*)', re.ASCII)
# What the hub allows in no name of a repository; such a name is a path.
NO_REPOSITORY = re.compile(r'--|\.\.|[.-](/|$)|\.git$')
PREFIX = re.compile(r'hf[-_]hub:')
FILE_NAME = re.compile(r'\.(pth|pt|bin|ckpt|safetensors|h5|keras)$')
URL_PATH = re.compile(r'([^/]+/[^/]+)(?:/(?:resolve|blob)/main(/.+))?')
SHA256 = re.compile(r'[0-9a-f]{64}')
# The hub's words for what it refuses, in the header X-Error-Code.
GATED, NO_REPO, NO_FILE = 'GatedRepo', 'RepoNotFound', 'EntryNotFound'
BAD_TOKEN = 'BadToken'  # our word: it has none
UNAUTHORIZED, NOT_FOUND = 401, 404


class HubPlace(NamedTuple):
    """A place of the hub.

    Attributes:
        repo: The repository, ``ORG/REPO``.
        file: A file of it; empty for the first of :data:`FILES` that it has.
    """

    repo: str
    file: str = ''


class _RefusedError(Exception):
    """The hub refuses a file; the argument is its word for the reason."""


def split_hub_name(name: str) -> HubPlace | None:
    """Return the place that a name stands for; None if it is none.

    Args:
        name: ``ORG/REPO`` or ``ORG/REPO/FILE``, with or without ``hf-hub:`` or ``hf_hub:``. The
            path of a file, such as ``folder/model.pth``, is no such name.
    """
    bare = PREFIX.sub('', name, count=1) if PREFIX.match(name) else name
    found = NAME.fullmatch(bare)
    if found is None or NO_REPOSITORY.search(found[1]):
        return None
    if bare == name and not found[2] and FILE_NAME.search(name):
        return None
    return HubPlace(found[1], found[2].lstrip('/'))


def split_hub_url(url: str) -> HubPlace | None:
    """Return the place that an address of the hub stands for; None if it is none.

    Args:
        url: The address of a repository's page, or of a file of its branch ``main``.
    """
    for hub in (hub_address(), HUB):
        if url.startswith(f'{hub}/'):
            path = unquote(urlsplit(url.removeprefix(hub)).path).strip('/')
            found = URL_PATH.fullmatch(path)
            return split_hub_name(f'hf-hub:{found[1]}{found[2] or ""}') if found else None
    return None


def find_in_hub_caches(place: HubPlace) -> Path | None:
    """Return the file of a place on this machine; None if it is not here.

    Each folder of ``$CONVNEXT_BACKBONES_WEIGHTS`` is searched for ``ORG/REPO/FILE``, ``REPO/FILE``,
    and ``REPO`` with the ending of a file of weights; after them the cache for ``ORG/REPO/FILE``,
    and the cache of huggingface_hub.
    """
    short = place.repo.rpartition('/')[2]
    *own, cache = weight_folders()
    paths = []
    for folder in own:
        paths += [folder / repo / file for repo in (place.repo, short) for file in _files(place)]
        if not place.file:
            paths += [folder / f'{short}{ending}' for ending in ENDINGS]
    # Not by its short name: another file, such as the authors', may be kept under that.
    paths += [cache / place.repo / file for file in _files(place)]
    for path in paths:
        if path.is_file():
            return path
    if has_library():
        from huggingface_hub import try_to_load_from_cache

        for file in _files(place):
            cached = try_to_load_from_cache(place.repo, file)
            if isinstance(cached, str):  # otherwise a mark that the repository has no such file
                return Path(cached)
    return None


def find_or_fetch_from_hub(
    place: HubPlace,
    check: Callable[[Path], object] | None = None,
    hint: str = '',
    copy: str = '',
) -> Path:
    """Return the file of a place on this machine, after downloading it if necessary.

    In a distributed run every process must call this function; the first process of each machine
    downloads.

    Args:
        place: What to fetch.
        check: As in :func:`~convnext_backbones.io.download.fetch`, without huggingface_hub.
        hint: The end of the sentences that say that there is no such repository, or that it cannot
            be asked for.
        copy: Name of the same weights without a gate, if there are any.

    Raises:
        FileNotFoundError: There is no such repository or file; or it is not here, and the
            environment forbids the download.
        ValueError: The repository is gated, the download failed, or the file is not the expected
            one.
    """

    def find() -> Path:
        found = find_in_hub_caches(place)
        if found is not None:
            return found
        _refuse_offline(place, hint)
        get = _through_library if has_library() else _by_ourselves
        for file in _files(place):
            try:
                return get(place.repo, file, check)
            except _RefusedError as refusal:
                if str(refusal) != NO_FILE:
                    raise _explain(place, str(refusal), hint, copy) from refusal
        raise _explain(place, NO_FILE, hint, copy)

    return first_process_first(find)


def has_library() -> bool:
    """Whether huggingface_hub is installed."""
    return find_spec('huggingface_hub') is not None


def hub_address() -> str:
    """Return the address of the hub, or of the mirror that ``$HF_ENDPOINT`` names."""
    return (os.environ.get('HF_ENDPOINT') or HUB).rstrip('/')


def _files(place: HubPlace) -> tuple[str, ...]:
    return (place.file,) if place.file else FILES


def _url(repo: str, file: str) -> str:
    return f'{hub_address()}/{repo}/resolve/main/{quote(file)}'


def _by_hand(place: HubPlace) -> Path:
    """Return where a user would put the file."""
    return weight_folders()[0] / place.repo / _files(place)[0]


# --- words ----------------------------------------------------------------------------------


def _refuse_offline(place: HubPlace, hint: str) -> None:
    """Raise an error if the environment forbids downloads."""
    reason = OFFLINE_VARIABLE
    if may_download():
        reason = 'HF_HUB_OFFLINE'
        if os.environ.get(reason, '').lower() not in ('1', 'on', 'yes', 'true'):
            return
    raise FileNotFoundError(
        f'expected a file of the repository {place.repo!r} on this machine, because {reason} is '
        f'set; download {_url(place.repo, _files(place)[0])} elsewhere and put it at '
        f'{str(_by_hand(place))!r}{hint}'
    )


def _explain(place: HubPlace, reason: str, hint: str, copy: str) -> Exception:
    """Return the error for what the hub refuses."""
    page = f'{hub_address()}/{place.repo}'
    if reason == GATED:
        other = f'; {copy!r} has the same weights without a gate' if copy else ''
        return ValueError(
            f'expected access to {place.repo!r}, which is gated: accept its licence at {page} and '
            'log in with `hf auth login` or a token in HF_TOKEN; or put the file at '
            f'{str(_by_hand(place))!r}{other}'
        )
    if reason == BAD_TOKEN:
        return ValueError(
            f'expected a valid token, {hub_address()} refuses the one in HF_TOKEN or of the last '
            'login; log in with `hf auth login`, or remove it where no gate asks for one'
        )
    if reason == NO_FILE:
        files = ' or '.join(map(repr, _files(place)))
        return FileNotFoundError(
            f'expected {files} in the repository {place.repo!r}, found no such file; see '
            f'{page}/tree/main, and name one of its files as {place.repo}/FILE'
        )
    return FileNotFoundError(
        f'expected a file, the name of published weights, or a repository of {hub_address()}, '
        f'found nothing at {place.repo!r} (a private repository needs a token in HF_TOKEN){hint}'
    )


def _failed(repo: str, file: str, reason: str) -> ValueError:
    place = HubPlace(repo, file)
    return ValueError(
        f'cannot download {_url(repo, file)}: {reason}; check the connection, or put the file at '
        f'{str(_by_hand(place))!r}'
    )


# --- the two ways ---------------------------------------------------------------------------


def _through_library(repo: str, file: str, check: Callable[[Path], object] | None) -> Path:
    """Fetch a file with huggingface_hub into its cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        path = Path(hf_hub_download(repo, file, endpoint=hub_address()))
    except GatedRepoError as error:
        raise _RefusedError(GATED) from error
    except RepositoryNotFoundError as error:
        raise _RefusedError(NO_REPO) from error
    except LocalEntryNotFoundError as error:  # its word for no connection
        raise _failed(repo, file, _first_line(error.__cause__ or error)) from error
    except EntryNotFoundError as error:
        raise _RefusedError(NO_FILE) from error
    except Exception as error:  # of one of the HTTP libraries that its versions use
        if getattr(getattr(error, 'response', None), 'status_code', None) == UNAUTHORIZED:
            raise _RefusedError(BAD_TOKEN) from error
        raise _failed(repo, file, _first_line(error)) from error
    _check_blob(path, _url(repo, file))
    return path


def _check_blob(path: Path, url: str) -> None:
    """Compare a downloaded file with the digest that the hub states, which names it in the cache.

    huggingface_hub compares only the size.

    Raises:
        ValueError: It is another file, and was removed.
    """
    blob = path.resolve()
    if not SHA256.fullmatch(blob.name):  # small files have other digests; some systems no links
        return
    digest = hashlib.sha256()
    with blob.open('rb') as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise ValueError(
            f'expected a file with the SHA-256 {blob.name}, got {digest.hexdigest()} from {url}; '
            'it was not kept'
        )


def _by_ourselves(repo: str, file: str, check: Callable[[Path], object] | None) -> Path:
    """Fetch a file without huggingface_hub into our cache."""
    url, token = _url(repo, file), _token()
    headers = {'Authorization': f'Bearer {token}'} if token else {}
    try:
        status, answer = ask(url, headers)
    except ValueError as error:
        raise _failed(repo, file, str(error).partition(f'{url}: ')[2]) from error
    if status >= 400:
        reason = answer['X-Error-Code'] or ''
        if status == UNAUTHORIZED and not reason:
            reason = BAD_TOKEN if token else NO_REPO
        if status == NOT_FOUND and not reason:  # a mirror
            reason = NO_FILE
        if reason in (GATED, NO_REPO, NO_FILE, BAD_TOKEN):
            raise _RefusedError(reason)
        raise _failed(repo, file, f'the server answers {status} {reason}'.rstrip())
    size = answer['X-Linked-Size']
    etag = (answer['X-Linked-Etag'] or '').removeprefix('W/').strip('"')
    return fetch(
        url,
        (weight_folders()[-1] / repo / file).parent,
        int(size) if size and size.isdecimal() else None,
        etag if SHA256.fullmatch(etag) else None,
        check,
        headers,
    )


def _token() -> str | None:
    """Return the token of the user, from where the hub's own tools keep it."""
    for variable in ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN'):
        if token := _one_word(os.environ.get(variable, '')):
            return token
    caches = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    home = os.environ.get('HF_HOME') or Path(caches) / 'huggingface'
    path = Path(os.environ.get('HF_TOKEN_PATH') or Path(home) / 'token').expanduser()
    try:
        return _one_word(path.read_text()) or None
    except (OSError, UnicodeDecodeError):
        return None


def _one_word(token: str) -> str:
    """Return a token without line breaks, for which Python would refuse, and print, the header."""
    return ''.join(token.split())


def _first_line(error: BaseException) -> str:
    """Return the message of an error as far as it is on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
