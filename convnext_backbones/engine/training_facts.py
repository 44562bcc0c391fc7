"""What a checkpoint, and the records beside it, say about its training: for a model card.

Nothing is executed and nothing is guessed. The config is the text that mmengine keeps in the
checkpoint. Numbers of a validation count only if the records beside the checkpoint are those of its
own training.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..config.walk import entry_at, pipelines, transform_name, type_name
from ..io.download import is_url
from ..io.hub import PREFIX, split_hub_name
from ..reports.config_entries import read_config_text
from ..reports.results_table import LAST_COLUMNS, PLACE, RESULTS, VAL_LOSS_PREFIX, read_rows
from ..reports.training_runs import CONFIG, ENVIRONMENT
from ..weights.published import PUBLISHED, published_name

# Of weights that have names instead of places.
NAMES = tuple(
    f'{scheme}://' for scheme in ('torchvision', 'modelzoo', 'openmmlab', 'open-mmlab', 'mmcls')
)
SAVED = '%Y%m%d_%H%M%S'  # how mmengine writes the time at which a checkpoint was saved
# Columns of a validation that are no metrics.
NO_METRICS = {*PLACE, *LAST_COLUMNS}
RANDOM = 'random numbers'
# What is read of a config, and has entries of its own.
SECTIONS = ('model', 'model.backbone', 'optim_wrapper', 'train_cfg', 'train_dataloader')


@dataclass(frozen=True)
class StartingWeights:
    """What a training started from.

    Attributes:
        name: A published name, or the name of a file without its folders.
        licence: Of these weights, as the table of published weights has it; empty if not known.
        pretraining: Data and method, in words; empty if not known.
        repo: Their repository of the Hugging Face hub; empty if there is none.
    """

    name: str = RANDOM
    licence: str = ''
    pretraining: str = ''
    repo: str = ''


def config_in(meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the config that mmengine keeps as text in a checkpoint; None if there is none.

    Args:
        meta: The entry ``meta`` of the checkpoint.
    """
    text = meta.get('cfg')
    try:
        entries = read_config_text(text) if isinstance(text, str) else {}
    except ValueError:  # not of mmengine, which writes Python
        return None
    usual = all(isinstance(entry_at(entries, path) or {}, dict) for path in SECTIONS)
    return entries if entries and usual else None


# --- the records beside a checkpoint --------------------------------------------------------


def environment_of(checkpoint: str | os.PathLike, meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return ``environment.json`` beside a checkpoint if it is of the training that wrote both.

    That is so if ``config.py`` beside it is the config in the checkpoint to the letter, which
    includes the folder of the training, and the training started before the checkpoint was saved.
    """
    folder = Path(checkpoint).parent
    try:
        config = (folder / CONFIG).read_text(encoding='utf-8')
        environment = json.loads((folder / ENVIRONMENT).read_text(encoding='utf-8'))
        complete = {'hardware', 'versions'} <= environment.keys()
        starts = [environment, *environment.get('earlier_starts', [])]
        # Both are local times of the machine of the training.
        started = [datetime.fromisoformat(one['started']).replace(tzinfo=None) for one in starts]
        saved = datetime.strptime(meta['time'], SAVED)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not written, or by something else
    own = complete and config == meta.get('cfg') and min(started) <= saved
    return environment if own else None


def validation_of(
    checkpoint: str | os.PathLike, meta: Mapping[str, Any]
) -> dict[str, float | None]:
    """Return the metrics of the validation of a checkpoint within its own training, by name.

    They are empty if that training did not validate when it saved the checkpoint, or if the
    records beside the checkpoint are not of its training.

    Raises:
        ValueError: ``results.csv`` is damaged.
    """
    if environment_of(checkpoint, meta) is None:
        return {}
    path = Path(checkpoint).parent / RESULTS
    rows = read_rows(path)[1] if path.is_file() else []
    here = [row for row in rows if row['split'] == 'val' and row.get('step') == meta.get('iter')]
    return {
        name: float(value) if math.isfinite(float(value)) else None
        for name, value in (here[-1] if here else {}).items()
        if name not in NO_METRICS and not name.startswith(VAL_LOSS_PREFIX)
    }


# --- what a config says ---------------------------------------------------------------------


def starting_weights(cfg: Mapping[str, Any]) -> StartingWeights:
    """Return what a training with a config starts from."""
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    sources = [] if cfg.get('resume') else [cfg.get('load_from')]
    for part in (backbone, model):
        init = part.get('init_cfg')
        several = init if isinstance(init, (list, tuple)) else [init]
        sources += [one.get('checkpoint') for one in several if isinstance(one, Mapping)]
        sources.append(part.get('pretrained'))
    source = next((str(one) for one in sources if one), None)
    if source is None:
        return StartingWeights()
    name = published_name(source)
    if name is None:
        named = split_hub_name(source) if PREFIX.match(source) else None
        return StartingWeights(_file_name(source), repo=named.repo if named else '')
    published = PUBLISHED[name]
    pretraining = published.pretraining + (f', {published.method}' if published.method else '')
    return StartingWeights(name, published.facts()['licence'], pretraining, published.repo or '')


def _file_name(source: str) -> str:
    """Return the name of a file without folders and hosts, which are nobody's business."""
    if source.lower().startswith(NAMES):
        return source  # such as torchvision://resnet50
    path = urlsplit(source).path if is_url(source) else source
    return re.split(r'[/\\]', path.rstrip('/\\'))[-1]


def training_facts(
    cfg: Mapping[str, Any], meta: Mapping[str, Any], environment: Mapping[str, Any] | None
) -> dict[str, str]:
    """Return the recipe of a training, in words by name.

    Args:
        cfg: The config as it ran.
        meta: The entry ``meta`` of the checkpoint.
        environment: As :func:`environment_of` returns it.
    """
    wrapper = cfg.get('optim_wrapper') or {}
    accumulated = wrapper.get('accumulative_counts') or 1
    facts = {
        'length': _length(cfg, meta),
        'batch size': _batch_size(cfg, environment, accumulated),
        'optimizer': _call(wrapper.get('optimizer')),
        'schedule of rates': ', then '.join(map(_call, _listed(cfg.get('param_scheduler')))),
        'rates by layer': _arguments(wrapper.get('paramwise_cfg')),
        'gradients clipped': _arguments(wrapper.get('clip_grad')),
        'precision': 'mixed' if 'Amp' in type_name(wrapper) else '',
        'averaged weights': ', '.join(
            _call(hook) for hook in _listed(cfg.get('custom_hooks')) if type_name(hook) == 'EMAHook'
        ),
        'transforms': ', '.join(
            transform_name(transform)
            for pipeline in pipelines(entry_at(dict(cfg), 'train_dataloader.dataset'))
            for transform in pipeline
        ),
        'seed': '' if meta.get('seed') is None else str(meta['seed']),
    }
    if environment is not None:
        hardware = environment['hardware']
        facts['machine'] = ', '.join(hardware['gpus']) or hardware['cpu']
        versions = environment['versions'].items()
        facts['versions'] = ', '.join(f'{name} {number}' for name, number in versions if number)
    return {name: fact for name, fact in facts.items() if fact}


def _length(cfg: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    loop = cfg.get('train_cfg') or {}
    unit, done = ('epochs', 'epoch') if 'max_epochs' in loop else ('iterations', 'iter')
    planned = loop.get('max_epochs', loop.get('max_iters'))
    if done not in meta:
        return f'{planned} {unit} planned' if planned else ''
    return f'{meta[done]} of {planned} {unit}'


def _batch_size(
    cfg: Mapping[str, Any], environment: Mapping[str, Any] | None, accumulated: int
) -> str:
    size = (cfg.get('train_dataloader') or {}).get('batch_size')
    if not size:
        return ''
    steps = f', {accumulated} batches per step' if accumulated > 1 else ''
    if environment is None:
        return f'{size} images per process{steps}'
    processes = environment['hardware']['processes']
    several = f' ({processes} processes with {size})' if processes > 1 else ''
    return f'{size * processes} images{several}{steps}'


def _listed(entry: Any) -> list[Any]:
    return [one for one in (entry if isinstance(entry, (list, tuple)) else [entry]) if one]


def _arguments(entry: Any) -> str:
    """Return numbers and words of an entry, ``name=value``; what could be a path is left out."""
    pairs = entry.items() if isinstance(entry, Mapping) else ()
    return ', '.join(
        f'{name}={value}'
        for name, value in pairs
        if name != 'type' and not isinstance(value, Mapping) and not re.search(r'[/\\]', str(value))
    )


def _call(entry: Any) -> str:
    arguments = _arguments(entry)
    return f'{type_name(entry)} ({arguments})' if arguments else type_name(entry)
