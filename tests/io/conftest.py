"""A file server in a thread, and the environment of a user who has set nothing but a cache."""

import threading

import pytest
from support.file_server import Server

from convnext_backbones.io.download import CACHE_VARIABLE, FOLDERS_VARIABLE, OFFLINE_VARIABLE


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}).start()
        yield server
        server.go_on.set()
        server.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The environment of a user who has set nothing but a cache."""
    for variable in (FOLDERS_VARIABLE, OFFLINE_VARIABLE, 'LOCAL_RANK'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'weights'
