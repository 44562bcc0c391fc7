"""Interrupted downloads continue where they stopped, unless the file is another one by now."""

import io
import logging
import multiprocessing
import os
import signal
import time

import pytest
from mmengine.logging import MMLogger
from rich.console import Console
from support.file_server import CONTENT, SHA256, left_in

from convnext_backbones.io import transfer
from convnext_backbones.io.download import fetch

CUT = 300_000
OTHER = CONTENT[::-1]


@pytest.fixture
def url(server) -> str:
    return f'{server.url}/versioned/a.pth'


def fail(url: str, folder, message: str = 'the download was interrupted', **known) -> None:
    with pytest.raises(ValueError, match=message) as error:
        fetch(url, folder, **known)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'validators', [{'ETag': '"{digest}"'}, {'Last-Modified': 'Sat, 01 Jan 2022 00:00:00 GMT'}]
)
def test_an_interrupted_download_continues(validators, server, url, tmp_path):
    server.validators = validators
    server.cuts = [CUT, 2 * CUT]
    fail(url, tmp_path, f'got {CUT}; .* {CUT} bytes are kept, and the next attempt continues')
    fail(url, tmp_path, f'{2 * CUT} bytes are kept')
    path = fetch(url, tmp_path, size=len(CONTENT), sha256=SHA256)
    assert path.read_bytes() == CONTENT and left_in(tmp_path) == ['a.pth']
    assert server.sent == [CUT, CUT, len(CONTENT) - 2 * CUT]


@pytest.mark.parametrize('validators', [{}, {'ETag': 'W/"{digest}"'}])
def test_without_a_validator_nothing_is_kept(validators, server, url, tmp_path):
    server.validators, server.cuts = validators, [CUT]
    fail(url, tmp_path, 'nothing was kept; try again')
    assert left_in(tmp_path) == []
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert server.sent == [CUT, len(CONTENT)]


@pytest.mark.parametrize('understands', ['nothing', 'nothing at all'])
def test_a_server_without_ranges_sends_the_file_again(understands, server, url, tmp_path):
    server.understands, server.cuts = understands, [CUT]
    fail(url, tmp_path)
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert [number for number in server.sent if number] == [CUT, len(CONTENT)]


def test_a_server_that_says_so_has_no_ranges(server, url, tmp_path):
    server.validators |= {'Accept-Ranges': 'none'}
    server.cuts = [CUT]
    fail(url, tmp_path, 'nothing was kept')
    assert left_in(tmp_path) == []


@pytest.mark.parametrize('understands', ['If-Range', 'Range'])
@pytest.mark.parametrize('content', [OTHER, CONTENT[:-1], CONTENT + b'x'])
def test_a_changed_file_is_not_glued_to_the_old_one(content, understands, server, url, tmp_path):
    server.cuts = [CUT]
    fail(url, tmp_path)
    server.content, server.understands = content, understands
    assert fetch(url, tmp_path).read_bytes() == content
    assert server.sent[0] == CUT and server.sent[-1] == len(content)


def test_another_range_than_the_missing_one_is_not_used(server, url, tmp_path):
    server.cuts = [CUT]
    fail(url, tmp_path)
    server.understands = 'another range'
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert server.sent[-1] == len(CONTENT)


def test_the_digest_of_a_continued_download_is_checked(server, tmp_path):
    url = f'{server.url}/versioned/model-0badc0de.pth'
    server.cuts = [CUT]
    fail(url, tmp_path)
    fail(url, tmp_path, 'expected a file with the SHA-256 0badc0de, got')
    assert server.sent == [CUT, len(CONTENT) - CUT] and left_in(tmp_path) == []


def test_bytes_that_were_damaged_meanwhile_are_noticed(server, url, tmp_path):
    server.cuts = [CUT]
    fail(url, tmp_path)
    part = tmp_path / '.a.pth.part'
    part.write_bytes(b'x' * CUT)
    fail(url, tmp_path, 'expected a file with the SHA-256', sha256=SHA256)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize('record', ['', '{', '[]', '{"url": "http://host/a.pth"}'])
def test_a_record_that_says_nothing_is_not_used(record, server, url, tmp_path):
    (tmp_path / '.a.pth.part').write_bytes(OTHER[:CUT])
    (tmp_path / '.a.pth.part.json').write_text(record)
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert server.sent == [len(CONTENT)] and left_in(tmp_path) == ['a.pth']


def test_another_url_with_the_same_name_starts_again(server, url, tmp_path):
    server.cuts = [CUT]
    fail(url, tmp_path)
    assert fetch(f'{url}?another', tmp_path).read_bytes() == CONTENT
    assert server.sent == [CUT, len(CONTENT)]


@pytest.mark.parametrize('known', [{'size': 5000}, {'size': len(CONTENT) + 1}])
def test_another_size_than_the_expected_one_is_not_continued(known, server, url, tmp_path):
    server.cuts = [CUT]
    fail(url, tmp_path)
    fail(url, tmp_path, 'the server announces .* nothing was kept', **known)
    assert left_in(tmp_path) == []


def test_a_killed_process_is_continued(server, url, tmp_path):
    server.cuts, server.understands = [CUT], 'waiting'
    process = multiprocessing.get_context('fork').Process(target=fetch, args=(url, tmp_path))
    process.start()
    part = tmp_path / '.a.pth.part'
    for _ in range(1000):
        if part.exists() and part.stat().st_size >= CUT // transfer.CHUNK * transfer.CHUNK:
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    kept, server.understands = part.stat().st_size, 'If-Range'
    server.go_on.set()
    assert kept > 0 and fetch(url, tmp_path).read_bytes() == CONTENT
    assert server.sent == [CUT, len(CONTENT) - kept]


# --- progress -------------------------------------------------------------------------------


@pytest.fixture
def messages():
    """The messages of the log."""
    found = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: found.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def test_the_log_shows_every_tenth(server, url, tmp_path, messages, monkeypatch):
    monkeypatch.setattr(transfer, 'LOG_BYTES', 1)
    fetch(url, tmp_path)
    lines = [line for line in messages if line.startswith('Received')]
    assert 5 <= len(lines) <= 10
    assert lines[0] == f'Received {2 * transfer.CHUNK} of {len(CONTENT)} bytes (12%)'


def test_small_files_get_no_lines_and_slow_ones_some(server, url, tmp_path, messages, monkeypatch):
    fetch(url, tmp_path / 'fast')
    assert not any(line.startswith('Received') for line in messages)
    monkeypatch.setattr(transfer, 'LOG_SECONDS', 0)
    fetch(url, tmp_path / 'slow')
    assert sum(line.startswith('Received') for line in messages) > 10


def test_a_file_of_unknown_size_is_counted(server, tmp_path, messages, monkeypatch):
    monkeypatch.setattr(transfer, 'LOG_SECONDS', 0)
    fetch(f'{server.url}/chunked/a.pth', tmp_path)
    assert f'Received {transfer.CHUNK} bytes' in messages


def test_a_terminal_shows_a_bar(server, url, tmp_path, messages, monkeypatch):
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=100)
    monkeypatch.setattr(transfer, 'Console', lambda stderr: console)
    server.cuts = [CUT]
    fail(url, tmp_path)
    fetch(url, tmp_path)
    shown = terminal.getvalue()
    assert 'a.pth' in shown and '1.0/1.0 MB' in shown
    assert f'Continuing after {CUT} of {len(CONTENT)} bytes' in messages
    assert not any(line.startswith('Received') for line in messages)
