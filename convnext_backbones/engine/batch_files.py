"""Name the files of the batch in which a run failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

FILES_SHOWN = 16  # in a message; the saved state has all


class NotFiniteError(FloatingPointError):
    """Losses or gradients of a training are NaN or infinite; the log has the same message."""


def listed(names: list[str], most: int) -> str:
    """The first names, and how many more there are."""
    rest = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + rest


def file_names(data) -> list[str]:
    """The image files of a batch, each once, whatever containers its samples are in."""
    if isinstance(data, BaseDataElement):
        return [data.img_path] if 'img_path' in data else []
    if isinstance(data, Mapping):
        data = list(data.values())
    if not isinstance(data, (list, tuple)):
        return []
    return list(dict.fromkeys(name for part in data for name in file_names(part)))


class CurrentBatchHook(Hook):
    """Knows the files of the batch that is being worked on; ``files`` is empty between batches."""

    def __init__(self) -> None:
        self.files: list[str] = []

    def _before_iter(self, runner, batch_idx: int, data_batch=None, mode: str = 'train') -> None:
        self.files = file_names(data_batch)

    def _after_iter(
        self, runner, batch_idx: int, data_batch=None, outputs=None, mode: str = 'train'
    ) -> None:
        self.files = []


@contextmanager
def batches_named(runner: Runner) -> Iterator[None]:
    """Let the log name the files of the batch in which a training or a test fails.

    What the network makes of an image, such as one that is too small for it, knows no file.
    """
    batch = CurrentBatchHook()
    runner.register_hook(batch)
    try:
        yield
    except NotFiniteError:  # names them itself
        raise
    except Exception:
        if batch.files:
            runner.logger.error(f'This failed with {listed(batch.files, FILES_SHOWN)}:')
        raise
