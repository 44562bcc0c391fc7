"""Files of the Hugging Face hub come through huggingface_hub, or without it, in the same way."""

import hashlib
import socket
import time
from contextlib import suppress

import huggingface_hub
import pytest
from huggingface_hub import constants
from support.file_server import CONTENT, SHA256
from support.hub_server import COMMIT, EXPIRED, TOKEN, HubServer, running

from convnext_backbones.io import hub
from convnext_backbones.io.download import FOLDERS_VARIABLE, OFFLINE_VARIABLE
from convnext_backbones.io.hub import (
    HubPlace,
    find_in_hub_caches,
    find_or_fetch_from_hub,
    split_hub_name,
    split_hub_url,
)

REPO = HubPlace('org/repo')
CUT = 300_000


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1,localhost')
    with running(HubServer()) as server:
        monkeypatch.setenv('HF_ENDPOINT', server.url)
        yield server


@pytest.fixture
def theirs(cache, tmp_path, monkeypatch):
    """The cache of huggingface_hub; no token, and waits of no length."""
    folder = tmp_path / 'huggingface'
    for variable in ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN', 'HF_HUB_OFFLINE', 'HF_TOKEN_PATH'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv('HF_HOME', str(folder))
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(folder / 'hub'))
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(folder / 'token'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    return folder


@pytest.fixture(params=['huggingface_hub', 'ourselves'])
def way(request, theirs, monkeypatch) -> str:
    monkeypatch.setattr(hub, 'has_library', lambda: request.param == 'huggingface_hub')
    return request.param


def one_sentence(kind: type[Exception], place: HubPlace = REPO, **words: str) -> str:
    with pytest.raises(kind) as error:
        find_or_fetch_from_hub(place, **words)
    message = str(error.value)
    assert '\n' not in message
    return message


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'place'),
    [
        ('timm/convnext_tiny.in12k', HubPlace('timm/convnext_tiny.in12k')),
        ('hf-hub:timm/convnext_tiny.in12k', HubPlace('timm/convnext_tiny.in12k')),
        ('hf_hub:a/b/c.bin', HubPlace('a/b', 'c.bin')),
        ('a/b/c/d.bin', HubPlace('a/b', 'c/d.bin')),
        ('hf-hub:a/b.pth', HubPlace('a/b.pth')),
        ('a/b.pth', None),
        ('a', None),
        ('hf-hub:a', None),
        ('/a/b', None),
        ('./a/b', None),
        ('a/../b', None),
        ('a/b/../c.bin', None),
        ('a/.b', None),
        ('a/b/', None),
        ('a\\b/c', None),
        ('https://a/b', None),
        ('runs/lr--1', None),
        ('runs/exp.', None),
        ('runs-/exp', None),
        ('a/b..c', None),
        ('hf-hub:a/b.git', None),
        ('runs/été', None),
        ('a/b/c--d.bin', HubPlace('a/b', 'c--d.bin')),
    ],
)
def test_names(name, place):
    assert split_hub_name(name) == place


@pytest.mark.parametrize('hub', ['https://huggingface.co', 'https://mirror.org'])
@pytest.mark.parametrize(
    ('path', 'place'),
    [
        ('/org/repo', REPO),
        ('/org/repo/?a=b#c', REPO),
        ('/org/repo/resolve/main/sub/a.bin?download=true', HubPlace('org/repo', 'sub/a.bin')),
        ('/org/repo/blob/main/a%20.bin', None),
        ('/org/repo/blob/main/a.bin', HubPlace('org/repo', 'a.bin')),
        ('/org/repo/resolve/0a1b/a.bin', None),
        ('/org/repo/resolve/main/..%2F..%2Fa.bin', None),
        ('/org', None),
        ('.evil.org/org/repo', None),
    ],
)
def test_addresses_of_the_hub(hub, path, place, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', 'https://mirror.org/')
    assert split_hub_url(hub + path) == place
    assert split_hub_url(f'https://other.org{path}') is None


# --- files that are there -------------------------------------------------------------------


@pytest.mark.parametrize(
    'path',
    [
        'org/repo/model.safetensors',
        'org/repo/pytorch_model.bin',
        'org/repo/open_clip_model.safetensors',
        'repo/model.safetensors',
        'repo.safetensors',
        'repo.bin',
        'repo.pth',
    ],
)
def test_own_folders_are_searched_first(path, way, server, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path / 'own'))
    monkeypatch.setenv(OFFLINE_VARIABLE, '1')
    file = tmp_path / 'own' / path
    file.parent.mkdir(parents=True)
    file.write_bytes(b'mine')
    assert find_in_hub_caches(REPO) == find_or_fetch_from_hub(REPO) == file
    assert find_in_hub_caches(HubPlace('org/repo', 'other.bin')) is None
    assert not server.asked


def test_a_file_of_another_origin_in_the_cache_is_not_taken(way, server, cache):
    cache.mkdir(parents=True)
    (cache / 'repo.pth').write_bytes(b'of the authors, who have a file of this name')
    assert find_in_hub_caches(REPO) is None
    assert find_or_fetch_from_hub(REPO).read_bytes() == CONTENT


def test_a_file_of_a_repository_by_name(way, server, tmp_path, monkeypatch):
    server.files['org/repo/sub/other.bin'] = b'other'
    place = HubPlace('org/repo', 'sub/other.bin')
    assert find_or_fetch_from_hub(place).read_bytes() == b'other'
    assert find_in_hub_caches(place).read_bytes() == b'other'
    assert find_in_hub_caches(REPO) is None


def test_what_other_projects_downloaded_is_found(theirs, server, monkeypatch):
    path = huggingface_hub.hf_hub_download('org/repo', 'model.safetensors', endpoint=server.url)
    asked = len(server.asked)
    monkeypatch.setenv(OFFLINE_VARIABLE, '1')
    assert str(find_or_fetch_from_hub(REPO)) == path
    assert len(server.asked) == asked


# --- fetching -------------------------------------------------------------------------------


def test_a_file_is_fetched_once(way, server, theirs, cache):
    for _ in range(2):
        path = find_or_fetch_from_hub(REPO)
        assert path.read_bytes() == CONTENT
    assert server.sent == [len(CONTENT)]
    if way == 'ourselves':
        assert path == cache / 'org' / 'repo' / 'model.safetensors'
        assert not theirs.exists()
    else:
        assert path.is_relative_to(theirs / 'hub')
        assert not cache.exists()


@pytest.mark.parametrize('file', hub.FILES)
def test_the_usual_files_are_tried_in_order(file, way, server):
    server.files = {
        f'org/repo/{name}': name.encode() for name in hub.FILES[hub.FILES.index(file) :]
    }
    assert find_or_fetch_from_hub(REPO).read_bytes() == file.encode()


def test_a_renamed_repository(way, server):
    server.renamed['old/name'] = 'org/repo'
    assert find_or_fetch_from_hub(HubPlace('old/name')).read_bytes() == CONTENT


def test_the_file_is_checked_in_our_cache(server, theirs, monkeypatch, cache):
    monkeypatch.setattr(hub, 'has_library', lambda: False)

    def refuse(path):
        raise ValueError('no weights')

    with pytest.raises(ValueError, match='was not kept: no weights'):
        find_or_fetch_from_hub(REPO, refuse)
    assert find_in_hub_caches(REPO) is None


# --- tokens ---------------------------------------------------------------------------------


@pytest.mark.parametrize('place', ['HF_TOKEN', 'file'])
def test_a_token_opens_gates_and_is_told_to_the_hub_only(place, way, server, theirs, monkeypatch):
    server.gated = {'org/repo'}
    if place == 'file':
        theirs.mkdir()
        (theirs / 'token').write_text(f'{TOKEN}\n')
    else:
        monkeypatch.setenv(place, TOKEN)
    assert find_or_fetch_from_hub(REPO).read_bytes() == CONTENT
    assert server.tokens('127.0.0.1') == {f'Bearer {TOKEN}'}
    assert server.tokens('localhost') == {''}
    assert ('GET', '/org/repo/model.safetensors?Signature=x') in server.requests('localhost')


def test_tokens_that_no_header_could_hold(server, theirs, monkeypatch):
    monkeypatch.setattr(hub, 'has_library', lambda: False)
    server.gated = {'org/repo'}
    theirs.mkdir()
    (theirs / 'token').write_bytes(b'\xff')
    assert 'is gated' in one_sentence(ValueError)
    (theirs / 'token').write_text(f'{TOKEN[:5]}\n{TOKEN[5:]}\n')
    assert find_or_fetch_from_hub(REPO).read_bytes() == CONTENT


def test_a_renamed_repository_with_a_gate(way, server, theirs, monkeypatch):
    server.gated, server.renamed = {'org/repo'}, {'old/name': 'org/repo'}
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    assert find_or_fetch_from_hub(HubPlace('old/name')).read_bytes() == CONTENT
    assert server.tokens('localhost') == {''}


# --- interruptions --------------------------------------------------------------------------


def test_an_interrupted_download_continues(way, server, monkeypatch):
    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', CUT // 4)
    server.cuts = [CUT]
    if way == 'ourselves':
        with pytest.raises(ValueError, match=f'{CUT} bytes are kept'):
            find_or_fetch_from_hub(REPO)
    else:
        with suppress(ValueError):  # versions of the library before 1.0 do not try again at once
            find_or_fetch_from_hub(REPO)
    assert find_or_fetch_from_hub(REPO).read_bytes() == CONTENT
    assert server.sent == [CUT, len(CONTENT) - CUT]


def test_a_download_that_never_ends(way, server, theirs, cache):
    server.cuts = [CUT] * 20
    message = one_sentence(ValueError)
    assert f'{server.url}/org/repo/resolve/main/model.safetensors' in message
    assert find_in_hub_caches(REPO) is None


def test_a_truncated_file(way, server, theirs, cache):
    server.short = 5000
    message = one_sentence(ValueError)
    assert f'{server.url}/org/repo/resolve/main/model.safetensors' in message
    assert str(len(CONTENT)) in message and '5000' in message
    assert find_in_hub_caches(REPO) is None


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize('token', ['', 'hf_other'])
def test_a_gated_repository(token, way, server, cache, monkeypatch):
    server.gated = {'org/repo'}
    if token:
        monkeypatch.setenv('HF_TOKEN', token)
    page, path = f'{server.url}/org/repo', cache / 'org' / 'repo' / 'model.safetensors'
    sentence = (
        f"expected access to 'org/repo', which is gated: accept its licence at {page} and log in "
        f"with `hf auth login` or a token in HF_TOKEN; or put the file at '{path}'"
    )
    assert one_sentence(ValueError) == sentence
    copied = one_sentence(ValueError, copy='other/repo')
    assert copied == f"{sentence}; 'other/repo' has the same weights without a gate"
    path.parent.mkdir(parents=True)
    path.write_bytes(b'by hand')
    assert find_or_fetch_from_hub(REPO) == path


def test_a_token_that_is_not_valid_any_more(way, server, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', EXPIRED)
    message = one_sentence(ValueError)
    assert message.startswith(f'expected a valid token, {server.url} refuses the one in HF_TOKEN')


@pytest.mark.parametrize('token', ['', TOKEN])
def test_no_such_repository(token, way, server, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', token)
    message = one_sentence(FileNotFoundError, HubPlace('org/rope'), hint='; or another?')
    assert f"a repository of {server.url}, found nothing at 'org/rope'" in message
    assert message.endswith('; or another?')


def test_no_such_file(way, server):
    message = one_sentence(FileNotFoundError, HubPlace('org/repo', 'gone.bin'))
    assert message.startswith("expected 'gone.bin' in the repository 'org/repo', found no such")
    assert f'{server.url}/org/repo/tree/main' in message and 'org/repo/FILE' in message
    server.files = {'org/repo/README.md': b''}
    assert ' or '.join(map(repr, hub.FILES)) in one_sentence(FileNotFoundError)


def test_a_wrong_digest(way, server, theirs, cache):
    server.broken = True
    zeros = hashlib.sha256(bytes(len(CONTENT))).hexdigest()
    url = f'{server.url}/org/repo/resolve/main/model.safetensors'
    message = one_sentence(ValueError)
    assert message.startswith(f'expected a file with the SHA-256 {SHA256}, got {zeros} from {url}')
    assert find_in_hub_caches(REPO) is None
    server.broken = False
    assert find_or_fetch_from_hub(REPO).read_bytes() == CONTENT


def test_no_connection(way, theirs, cache, monkeypatch):
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        monkeypatch.setenv('HF_ENDPOINT', f'http://127.0.0.1:{unused.getsockname()[1]}')
        message = one_sentence(ValueError)
    assert 'refused' in message and 'check the connection' in message
    assert str(cache / 'org' / 'repo' / 'model.safetensors') in message


def test_a_hub_out_of_order(way, server):
    server.status = 503
    assert '503' in one_sentence(ValueError)


@pytest.mark.parametrize('variable', [OFFLINE_VARIABLE, 'HF_HUB_OFFLINE'])
def test_offline(variable, way, server, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, '1')
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path / 'own'))
    message = one_sentence(FileNotFoundError)
    assert f'because {variable} is set' in message
    assert f'{server.url}/org/repo/resolve/main/model.safetensors' in message
    assert str(tmp_path / 'own' / 'org' / 'repo' / 'model.safetensors') in message
    assert not server.asked
    monkeypatch.setenv(variable, '0')
    assert find_or_fetch_from_hub(REPO).is_file()


def test_the_revision_is_the_one_of_the_answer(way, server):
    """The double answers like the hub: huggingface_hub keeps files by revision."""
    path = find_or_fetch_from_hub(REPO)
    assert (COMMIT in str(path)) is (way == 'huggingface_hub')
