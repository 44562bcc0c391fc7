"""Downloads are whole and checked, or leave nothing behind. The server is a thread of the test."""

import multiprocessing
import os
import shutil
import signal
import socket
import time

import pytest
import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from support.file_server import CONTENT, SHA256, left_in
from torch import distributed

from convnext_backbones.io import download
from convnext_backbones.io.checkpoint import check_container
from convnext_backbones.io.download import (
    FOLDERS_VARIABLE,
    OFFLINE_VARIABLE,
    fetch,
    find_or_fetch,
    url_file_name,
)
from convnext_backbones.io.mmengine_patches import read_checkpoints_safely


def test_a_file_is_downloaded_once(server, tmp_path):
    url = f'{server.url}/whole/a.pth?query#part'
    for _ in range(2):
        path = fetch(url, tmp_path / 'new', size=len(CONTENT), sha256=SHA256)
        assert path == tmp_path / 'new' / 'a.pth' and path.read_bytes() == CONTENT
    assert server.requests['/whole/a.pth?query'] == 1
    assert left_in(tmp_path) == ['a.pth']


@pytest.mark.parametrize('route', ['chunked', 'moved'])
def test_other_ways_of_sending(route, server, tmp_path):
    assert fetch(f'{server.url}/{route}/a.pth', tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ('route', 'known', 'message'),
    [
        ('cut', {}, f'expected {len(CONTENT)} bytes .*, got 5000'),
        ('chunked_cut', {}, 'IncompleteRead'),
        ('silent', {}, 'to announce its size'),
        ('silent', {'size': len(CONTENT) + 1}, 'bytes from'),
        ('silent', {'size': 5000}, 'got more'),
        ('whole', {'size': 5000}, 'the server announces'),
        ('whole', {'sha256': 'f' * 64}, 'expected a file with the SHA-256 ffff'),
        ('page', {'check': check_container}, 'what http.*a.pth sent was not kept: .*a web page'),
        ('absent', {}, 'the server answers 404'),
        ('expired', {}, 'answers 403 Forbidden, AccessDenied: a link .* expires .* ask for a new'),
        ('to_file', {}, 'not allowed'),
        ('to_https', {}, 'redirects to another scheme'),
    ],
)
def test_nothing_is_left_of_a_failed_download(route, known, message, server, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        fetch(f'{server.url}/{route}/a.pth', tmp_path, **known)
    assert '\n' not in str(error.value)
    assert left_in(tmp_path) == []


def test_a_server_that_is_not_there(tmp_path):
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{unused.getsockname()[1]}/a.pth'
        with pytest.raises(ValueError, match='cannot download .*refused'):
            fetch(url, tmp_path)


@pytest.mark.parametrize(
    ('name', 'passes'),
    [
        (f'model-{SHA256[:8]}.pth', True),
        (f'model-{SHA256}.safetensors', True),
        ('model-0badc0de.pth', False),
        ('model_20220301-20220426.pth', True),  # a date is no digest
    ],
)
def test_the_digest_in_a_name_is_checked(name, passes, server, tmp_path):
    if passes:
        assert fetch(f'{server.url}/whole/{name}', tmp_path).name == name
    else:
        with pytest.raises(ValueError, match='SHA-256 0badc0de'):
            fetch(f'{server.url}/whole/{name}', tmp_path)


@pytest.mark.parametrize(
    'url',
    [
        'http://host/..',
        'http://host/a/%2e%2e',
        'http://host/..%2f..%2fetc%2fpasswd',
        'http://host/%2fetc%2fpasswd',
        'http://host/a%5cb.pth',
        'http://host/C:b.pth',
        'http://host/a%00.pth',
        'http://host/.bashrc',
        'http://host/folder/',
        'http://host',
        'http:///a.pth',
        'file:///etc/passwd',
        'ftp://host/a.pth',
        's3://bucket/a.pth',
    ],
)
def test_names_that_lead_elsewhere_and_other_schemes_are_refused(url, tmp_path):
    with pytest.raises(ValueError, match='expected a URL'):
        fetch(url, tmp_path)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(('route', 'passes'), [('whole', True), ('page', False)])
def test_the_digest_in_the_name_of_a_signed_link(route, passes, server, tmp_path):
    url = f'{server.url}/{route}/model-{SHA256[:8]}.pth?Policy=a-b_&Signature=c/d&Key-Pair-Id=e'
    if passes:
        assert fetch(url, tmp_path) == tmp_path / f'model-{SHA256[:8]}.pth'
    else:
        with pytest.raises(ValueError, match=f'SHA-256 {SHA256[:8]}'):
            fetch(url, tmp_path)


def test_the_name_of_a_url():
    assert url_file_name('HTTPS://host:80/a/b%20c.pth?x=/y') == 'b c.pth'


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(ValueError, match='cannot keep .*choose another folder'):
        fetch(f'{server.url}/whole/a.pth', tmp_path / 'file' / 'folder')


def in_process(function, *arguments) -> multiprocessing.Process:
    """A fork: it has what the test has imported, at once."""
    process = multiprocessing.get_context('fork').Process(target=function, args=arguments)
    process.start()
    return process


def wait_for(condition) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError


def test_two_processes_download_once(server, tmp_path):
    url = f'{server.url}/slow/a.pth'
    processes = [in_process(fetch, url, tmp_path) for _ in range(2)]
    wait_for(lambda: server.requests['/slow/a.pth'])
    time.sleep(0.2)  # the other one has arrived by now; it must neither download nor go on
    assert all(process.is_alive() for process in processes)
    assert not (tmp_path / 'a.pth').exists()
    server.go_on.set()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert server.requests['/slow/a.pth'] == 1
    assert (tmp_path / 'a.pth').read_bytes() == CONTENT


def test_a_killed_download_is_never_used(server, tmp_path):
    process = in_process(fetch, f'{server.url}/slow/a.pth', tmp_path)
    wait_for(lambda: left_in(tmp_path))
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert left_in(tmp_path) == ['.a.pth.part']
    server.go_on.set()
    assert fetch(f'{server.url}/slow/a.pth', tmp_path).read_bytes() == CONTENT
    assert left_in(tmp_path) == ['a.pth']


def test_own_folders_come_before_the_cache(server, cache, tmp_path, monkeypatch):
    url = f'{server.url}/whole/a.pth'
    assert find_or_fetch(url, official=True) == cache / 'a.pth'
    own = tmp_path / 'own'
    own.mkdir()
    monkeypatch.setenv(FOLDERS_VARIABLE, os.pathsep.join(['', str(tmp_path / 'none'), str(own)]))
    assert find_or_fetch(url, official=True) == cache / 'a.pth'
    (own / 'a.pth').write_bytes(b'mine')
    assert find_or_fetch(url, official=True) == own / 'a.pth'


@pytest.mark.parametrize('name', ['URL', 'torchvision://resnet50'])
def test_mmengine_downloads_through_this_module(name, server, cache, tmp_path, monkeypatch):
    """Its own loader would execute the file, and unpack it first if it is a zip archive."""
    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes.copy())
    monkeypatch.setattr(mmengine_checkpoint, 'load_from_http', None)
    url = f'{server.url}/whole/a.pth'
    monkeypatch.setattr(mmengine_checkpoint, 'get_torchvision_models', lambda: {'resnet50': url})
    read_checkpoints_safely()
    name = name.replace('URL', url)
    path = tmp_path / 'weights.pth'
    torch.save({'w': torch.ones(1)}, path)
    server.content = path.read_bytes()
    assert CheckpointLoader.load_checkpoint(name)['w'] == 1
    torch.save(torch.nn.Linear(1, 1), path)
    server.content = path.read_bytes()
    shutil.rmtree(cache)
    with pytest.raises(ValueError, match='refused the checkpoint .*a.pth.*Linear'):
        CheckpointLoader.load_checkpoint(name)


def test_sites_with_the_same_name_for_different_files(server, cache):
    first = find_or_fetch(f'{server.url}/whole/a.pth')
    second = find_or_fetch(f'{server.url}/chunked/a.pth')
    assert first != second and first.name == second.name == 'a.pth'
    assert {first.parent.parent, second.parent.parent} == {cache}


@pytest.mark.parametrize('value', ['1', 'yes'])
def test_offline(value, server, cache, tmp_path, monkeypatch):
    url = f'{server.url}/whole/a.pth'
    monkeypatch.setenv(OFFLINE_VARIABLE, value)
    with pytest.raises(FileNotFoundError, match="expected 'a.pth' on this machine") as error:
        find_or_fetch(url, official=True)
    assert url in str(error.value) and str(cache) in str(error.value)
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path / 'own'))
    with pytest.raises(FileNotFoundError, match=str(tmp_path / 'own')):
        find_or_fetch(url, official=True)
    assert not server.requests
    monkeypatch.setenv(OFFLINE_VARIABLE, '0')
    assert find_or_fetch(url, official=True).is_file()


def one_rank(rank: int, meeting: str, url: str, results) -> None:
    """A process of a distributed run, which wants the file of ``url``."""
    distributed.init_process_group('gloo', init_method=meeting, rank=rank, world_size=2)
    downloads = []
    original = download._download
    download._download = lambda *arguments: (downloads.append(rank), original(*arguments))
    if rank == 0:
        time.sleep(0.3)  # rank 1 arrives first, and has to wait
    try:
        said = str(find_or_fetch(url))
    except ValueError as error:
        said = str(error)
    results.put((rank, said, downloads))
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.parametrize('route', ['whole', 'absent'])
def test_only_rank_0_downloads_and_all_hear_of_its_failure(route, server, cache, tmp_path):
    url = f'{server.url}/{route}/a.pth'
    results = multiprocessing.get_context('fork').SimpleQueue()
    meeting = f'file://{tmp_path}/meeting'
    processes = [in_process(one_rank, rank, meeting, url, results) for rank in range(2)]
    ranks, said, downloads = zip(*sorted(results.get() for _ in processes), strict=True)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert ranks == (0, 1) and downloads == ([0], [])
    assert said[0] == said[1]
    assert ('404' in said[0]) is (route == 'absent')
    assert server.requests[f'/{route}/a.pth'] == 1


def test_the_cache_without_a_home(monkeypatch):
    """Containers may have a user without a home folder, and without a name."""

    def no_home():
        raise RuntimeError('Could not determine home directory.')

    for name in ('XDG_CACHE_HOME', download.CACHE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download.Path, 'home', no_home)
    folder = download.cache_folder()
    assert folder.is_absolute() and folder.name.startswith('convnext_backbones-')
