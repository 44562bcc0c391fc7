"""Name the image files of the batch in which a run failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from ..io.wording import first_names

FILES_SHOWN = 16  # in a message


class NotFiniteError(FloatingPointError):
    """Losses or gradients of a training are NaN or infinite; the log has the same message."""


def file_names(data: Any) -> list[str]:
    """Return the image files of a batch, each once, whatever containers its samples are in."""
    if isinstance(data, BaseDataElement):
        return [data.img_path] if 'img_path' in data else []
    if isinstance(data, Mapping):
        data = list(data.values())
    if not isinstance(data, (list, tuple)):
        return []
    return list(dict.fromkeys(name for part in data for name in file_names(part)))


class CurrentBatchHook(Hook):
    """Keeps the files of the current batch in ``files``, which is empty between batches."""

    def __init__(self) -> None:
        self.files: list[str] = []

    def _before_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = 'train'
    ) -> None:
        self.files = file_names(data_batch)

    def _after_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
        mode: str = 'train',
    ) -> None:
        self.files = []


@contextmanager
def batches_named(runner: Runner) -> Iterator[None]:
    """Log the files of the batch in which a training or a test fails.

    An error inside the network, for example about an image that is too small, names no file.
    """
    batch = CurrentBatchHook()
    runner.register_hook(batch)
    try:
        yield
    except NotFiniteError:  # its message has the names
        raise
    except Exception:
        if batch.files:
            runner.logger.error(f'This failed with {first_names(batch.files, FILES_SHOWN)}:')
        raise
