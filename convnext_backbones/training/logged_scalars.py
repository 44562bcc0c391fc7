"""Pass the numbers that mmengine logs on to the records of a training."""

from __future__ import annotations

from typing import Any

from mmengine.registry import VISBACKENDS
from mmengine.visualization import BaseVisBackend


@VISBACKENDS.register_module()
class LoggedScalarsBackend(BaseVisBackend):
    """Visualizer backend that keeps the latest log entry for :class:`RecordsHook`.

    mmengine's LoggerHook sends every entry to all backends: ``LocalVisBackend`` writes it to
    ``vis_data/scalars.json``, and this one makes it available within the process. It writes no
    files.

    Args:
        save_dir: Required by mmengine, unused.
    """

    def __init__(self, save_dir: str | None = None) -> None:
        super().__init__(save_dir)
        self._entry: dict[str, float] | None = None

    def _init_env(self) -> None:
        pass

    @property
    def experiment(self) -> LoggedScalarsBackend:
        """Return the backend itself."""
        return self

    def add_scalars(
        self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Keep an entry, in place of the last one."""
        self._entry = dict(scalar_dict)

    def take(self) -> dict[str, float] | None:
        """Return the entry that was added since the last call; None if there is none."""
        entry, self._entry = self._entry, None
        return entry
