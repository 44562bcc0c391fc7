"""The check of a config before it is trained: what would cost a night, in seconds.

:func:`find_problems` compares the model with the data, the data with their files, and the settings
of the training with the machine. It reads files, and changes and downloads none. ``tools/check.py``
prints what it finds; ``tools/train.py`` calls :func:`refuse_problems`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from ..config.errors import config_errors
from ..engine.build import build_on_meta
from ..engine.processes import count_processes
from ..io.mmengine_patches import read_files_safely
from .data import check_data
from .findings import ERROR, Finding, errors_first
from .label_maps import UNLABELLED
from .model import check_classes
from .sources import build_sources
from .training import check_batch_size, check_disk, check_imports, check_optimizer
from .weights import check_weights

SPLITS = ('train', 'val', 'test')


def find_problems(
    cfg: Config,
    splits: Iterable[str] = SPLITS,
    thorough: bool = True,
    processes: int | None = None,
) -> list[Finding]:
    """Everything that is wrong, or likely to be, with a training of ``cfg`` on this machine.

    Args:
        cfg: As the tools load it, with ``work_dir`` and ``launcher``; it is left as it is.
        splits: The dataloaders whose data are checked.
        thorough: Open all images and label maps, with a progress bar, and load the weights to start
            from; otherwise a sample of the images.
        processes: That will train; None asks the launcher.

    Returns:
        The errors before the warnings.
    """
    read_files_safely()
    with _undisturbed(), DefaultScope.overwrite_default_scope(cfg.default_scope):
        sources, findings = build_sources(cfg, splits)
        findings += check_imports(cfg)
        findings += check_batch_size(cfg, processes or count_processes(cfg.get('launcher'))[0])
        try:
            model = _build_model(cfg)
        except (FileNotFoundError, ValueError) as error:
            findings.append(Finding(ERROR, str(error), 'model', 'correct this entry'))
        else:
            findings += check_classes(model, sources)
            findings += check_weights(cfg, model, thorough)
            findings += check_optimizer(cfg, model)
            findings += check_disk(cfg, model)
        ignored = {head.get('ignore_index', UNLABELLED) for head in segmentation_heads(cfg)}
        findings += check_data(cfg, sources, frozenset(ignored or {UNLABELLED}), thorough)
    return errors_first(findings)


def refuse_problems(cfg: Config) -> list[Finding]:
    """The quick check before a training.

    Returns:
        What should be known, for the log.

    Raises:
        ValueError: The training would fail, or learn what is wrong. Only the message of the first
            process tells of what.
    """
    findings = find_problems(cfg, ('train', 'val'), thorough=False)
    errors = [finding for finding in findings if finding.level == ERROR]
    if errors:
        _, rank = count_processes(cfg.get('launcher'))
        details = '\n'.join(map(str, errors)) if rank == 0 else 'see the first process'
        raise ValueError(
            f'the check before the training found {len(errors)} errors (tools/check.py finds more, '
            f'--no-check trains nevertheless):\n{details}'
        )
    return findings


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without the logs and warnings of what is built to be looked at; training repeats them."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)


def _build_model(cfg: Config) -> nn.Module:
    """The model without its numbers, or with them if it needs them to be built."""
    try:
        return build_on_meta(cfg)
    except Exception:  # what a model makes of weights without numbers is open-ended
        with config_errors():
            return MODELS.build(deepcopy(cfg.model))


def segmentation_heads(cfg: Config) -> Iterator[Mapping]:
    for key in ('decode_head', 'auxiliary_head'):
        heads = cfg.model.get(key) or ()
        yield from [heads] if isinstance(heads, Mapping) else heads
