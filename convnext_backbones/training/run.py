"""Run a training: from a complete config to the last checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

from mmengine.config import Config
from mmengine.hooks import Hook

from ..engine.batch_files import batches_named
from ..engine.runner import backbone_starts_from_scratch, build_runner
from .finite_numbers import FiniteNumbersHook
from .flags import StartMarker
from .foreign_names import ForeignNamesHook
from .interruption import InterruptionHook
from .records import set_records
from .resume import PositionHook, ResumableRandomnessHook, set_resumable


def train(
    cfg: Config,
    start: StartMarker,
    warnings: Iterable[object] = (),
    val_loss: bool = False,
    skip_bad_steps: int = 0,
    plain_runner: bool = False,
) -> None:
    """Train to the end of the schedule, or until a signal asks to stop.

    Args:
        cfg: A config with ``work_dir`` and ``launcher``; changed in place.
        start: A hook that records when training begins: errors before concern the config.
        warnings: Findings of the check, for the log.
        val_loss: Log the loss on the validation data as well.
        skip_bad_steps: Number of consecutive steps that may be skipped because losses or gradients
            are not finite.
        plain_runner: Leave mmengine's loop, CheckpointHook and random numbers as they are. A run
            then resumes at the start of an epoch only, with other random numbers, and a signal
            ends it without a checkpoint.

    Raises:
        NotFiniteError: Losses or gradients are not finite too often.
        ValueError: The config does not make a training.
    """
    replaced = [] if plain_runner else _set_resumable(cfg)
    set_records(cfg, val_loss)
    runner = build_runner(cfg)
    interruption = None if plain_runner else InterruptionHook()
    resuming: list[Hook] = []
    if interruption is not None:
        resuming = [interruption, PositionHook(), ResumableRandomnessHook()]
        runner.logger.info(
            'So that a resumed run equals an uninterrupted one, '
            f'{"".join(f"{change}, " for change in replaced)}torch is reseeded before every '
            'iteration, and SIGTERM and Ctrl-C save a checkpoint. --plain-runner trains with '
            "mmengine's own loop, hook and random numbers."
        )
    for hook in [*resuming, ForeignNamesHook(), FiniteNumbersHook(skip_bad_steps), start]:
        runner.register_hook(hook)
    if backbone_starts_from_scratch(cfg):
        runner.logger.warning(
            'The backbone starts from random weights: the config names no init_cfg, no '
            'pretrained and no load_from.'
        )
    for warning in warnings:
        runner.logger.warning(str(warning))
    with interruption or nullcontext(), batches_named(runner):
        runner.train()


def _set_resumable(cfg: Config) -> list[str]:
    """Make ``cfg`` resumable and return the replacements in words."""
    before = _replaceable_types(cfg)
    set_resumable(cfg)
    pairs = zip(before, _replaceable_types(cfg), strict=True)
    return [f'{new} replaces {old}' for old, new in pairs if new != old]


def _replaceable_types(cfg: Config) -> tuple[str, str]:
    """Return the names of the training loop and of the checkpoint hook."""
    loop = cfg.get('train_cfg') or {}
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    by_epoch = 'EpochBasedTrainLoop' if loop.get('by_epoch') else 'IterBasedTrainLoop'
    return _short(loop.get('type', by_epoch)), _short(hook.get('type', 'CheckpointHook'))


def _short(kind: str | type) -> str:
    """Return the name of a type without its modules."""
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__
