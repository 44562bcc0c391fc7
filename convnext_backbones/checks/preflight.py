"""Check a config before it is trained: find in seconds what would cost a night.

:func:`find_problems` compares the model with the data, the data with their files, and the training
settings with the machine. It reads files, but changes and downloads none. ``tools/check.py``
prints the findings; ``tools/train.py`` calls :func:`refuse_problems`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from ..config.errors import config_errors
from ..engine.build import build_on_meta
from ..engine.processes import count_processes
from ..io.mmengine_patches import read_files_safely
from ..io.silence import silenced
from .data import check_data
from .findings import ERROR, Finding, count_levels, errors_first, one_line
from .label_maps import UNLABELED
from .model import check_classes
from .preprocessing import check_preprocessing
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
    """Find everything that is, or may be, wrong with training ``cfg`` on this machine.

    Args:
        cfg: A config as the tools load it, with ``work_dir`` and ``launcher``; not changed.
        splits: The dataloaders whose data are checked.
        thorough: Open all images and label maps, with a progress bar, and load the weights to start
            from; otherwise open a sample of the images.
        processes: The number that will train; None asks the launcher.

    Returns:
        The errors before the warnings.
    """
    read_files_safely()
    # What is built here is built again for the work itself, and then says what it has to say.
    with silenced(logging.CRITICAL), DefaultScope.overwrite_default_scope(cfg.default_scope):
        sources, findings = build_sources(cfg, splits)
        findings += check_imports(cfg)
        findings += check_batch_size(cfg, processes or count_processes(cfg.get('launcher'))[0])
        try:
            model = _build_model(cfg)
        except (FileNotFoundError, ValueError) as error:
            findings.append(Finding(ERROR, one_line(error), 'model', 'correct this entry'))
        else:
            findings += check_classes(model, sources)
            findings += check_weights(cfg, model, thorough)
            findings += check_preprocessing(cfg)
            findings += check_optimizer(cfg, model)
            findings += check_disk(cfg, model)
        ignored = {head.get('ignore_index', UNLABELED) for head in _segmentation_heads(cfg)}
        findings += check_data(cfg, sources, frozenset(ignored or {UNLABELED}), thorough)
    return errors_first(findings, cfg.filename or '')


def refuse_problems(cfg: Config) -> list[Finding]:
    """Run the quick check before a training.

    Returns:
        The warnings, for the log.

    Raises:
        ValueError: The training would fail or learn something wrong. Only the first process's
            message has the details.
    """
    findings = find_problems(cfg, ('train', 'val'), thorough=False)
    errors = [finding for finding in findings if finding.level == ERROR]
    if errors:
        _, rank = count_processes(cfg.get('launcher'))
        details = '\n'.join(map(str, errors)) if rank == 0 else 'see the first process'
        raise ValueError(
            f'the check before the training found {count_levels(findings)} (tools/check.py checks '
            f'more thoroughly, --no-check trains nevertheless):\n{details}'
        )
    return findings


def _build_model(cfg: Config) -> nn.Module:
    """Build the model without memory for its weights, or with it if that does not work."""
    try:
        return build_on_meta(cfg)
    except Exception:  # a model may do anything with weights that hold no numbers
        with config_errors():
            return MODELS.build(deepcopy(cfg.model))


def _segmentation_heads(cfg: Config) -> Iterator[Mapping]:
    for key in ('decode_head', 'auxiliary_head'):
        heads = cfg.model.get(key) or ()
        yield from [heads] if isinstance(heads, Mapping) else heads
