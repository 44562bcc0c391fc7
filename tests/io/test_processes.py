"""Processes agree on a result or an error; the first of them goes first."""

import multiprocessing
import time
from pathlib import Path

import pytest
from torch import distributed

from convnext_backbones.io.processes import decide_together, first_process_first


def one_rank(rank: int, meeting: str, case: str, results) -> None:
    distributed.init_process_group('gloo', init_method=meeting, rank=rank, world_size=2)
    shared = Path(meeting.removeprefix('file://')).with_name('shared')

    def decide() -> int:
        if case == 'failure':
            raise ValueError(f'rank {rank} fails')
        return rank

    def write_once() -> str:
        if rank == 0:
            time.sleep(0.2)  # rank 1 arrives first, and has to wait
            shared.write_text('from rank 0')
        if case == 'late failure' and rank == 1:
            raise FileNotFoundError('rank 1 fails')
        return shared.read_text()

    try:
        said = (
            decide_together(decide)
            if case in ('result', 'failure')
            else first_process_first(write_once)
        )
    except (ValueError, OSError) as error:
        said = str(error)
    results.put((rank, said))
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ('case', 'said'),
    [
        ('result', 0),
        ('failure', 'rank 0 fails'),
        ('turns', 'from rank 0'),
        ('late failure', 'rank 1 fails'),
    ],
)
def test_two_processes(case, said, tmp_path, monkeypatch):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    context = multiprocessing.get_context('fork')
    results = context.SimpleQueue()
    arguments = (f'file://{tmp_path}/meeting', case, results)
    processes = [context.Process(target=one_rank, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    assert sorted(results.get() for _ in processes) == [(0, said), (1, said)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


def test_a_single_process_just_does_it():
    assert decide_together(lambda: 7) == first_process_first(lambda: 7) == 7
    with pytest.raises(OSError, match='alone'):
        decide_together(lambda: Path('alone').read_text())
