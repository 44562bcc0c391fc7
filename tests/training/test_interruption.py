"""Signals within the block of the hook, and the processes that are forked in it."""

import multiprocessing
import os
import signal
import subprocess
import time

import pytest
import torch
from torch.utils.data import DataLoader

from convnext_backbones.io.files import WriteError
from convnext_backbones.training.interruption import InterruptionHook, explain_write_error


@pytest.fixture(autouse=True)
def heed_sigint():
    """Handle SIGINT, which a shell ignores for commands in the background, such as these tests."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


class Slow(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> int:
        time.sleep(0.05)
        return index


def test_data_workers_are_ended_by_their_parent_only():
    with InterruptionHook() as hook:
        loader = iter(DataLoader(Slow(), batch_size=1, num_workers=1, timeout=30))
        next(loader)
        (worker,) = loader._workers
        for number in (signal.SIGTERM, signal.SIGINT):
            # From another process: this one is the parent.
            subprocess.run(['kill', f'-{number.value}', str(worker.pid)], check=True)
        for _ in range(8):
            next(loader)
        assert worker.is_alive() and not hook.received
        worker.terminate()
        worker.join(timeout=30)
        assert worker.exitcode == 0
        del loader


def report_blocked(queue) -> None:
    queue.put(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))


def child_blocks_sigterm() -> bool:
    context = multiprocessing.get_context('fork')
    queue = context.SimpleQueue()
    child = context.Process(target=report_blocked, args=(queue,))
    child.start()
    blocked = queue.get()
    child.join(timeout=30)
    return blocked


def test_forked_processes_are_shielded_within_the_block_only():
    hook = InterruptionHook()
    assert not child_blocks_sigterm()
    for _ in range(2):
        with hook:
            assert child_blocks_sigterm()
        assert not child_blocks_sigterm()


def test_earlier_handlers_are_restored():
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with InterruptionHook() as hook:
        os.kill(os.getpid(), signal.SIGTERM)
        assert hook.received == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_a_write_error_is_explained_and_others_are_not(tmp_path):
    error = WriteError(28, 'No space left on device', 'iter_2.pth')
    assert explain_write_error(error, str(tmp_path)) == (
        'cannot write iter_2.pth: No space left on device; there is no undamaged checkpoint; free '
        'some space or make the folder writable, and run the same command with --resume'
    )
    for other in (ValueError('shapes'), FileNotFoundError(2, 'No such file or directory', 'x')):
        assert explain_write_error(other, str(tmp_path)) is None
