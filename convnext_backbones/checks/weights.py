"""Check that the weights to start from exist and fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..config.walk import walk
from ..io.checkpoint import read_checkpoint
from ..weights.loading import PretrainedConvNeXt, load_weights
from ..weights.zoo import local_file
from .findings import ERROR, WARNING, Finding, Kind, several


def check_weights(cfg: Config, model: nn.Module, thorough: bool) -> Iterator[Finding]:
    """Compare weights to start from with the model, where they are on this machine.

    Those that training downloads are compared when it has; it stops if they do not fit.
    """
    if cfg.get('load_from'):
        yield from _check_plain(model, cfg.load_from, 'load_from')
    modules = dict(model.named_modules())
    for place, part in walk(cfg.model, 'model'):
        inits = part.get('init_cfg') or ()
        for init in [inits] if isinstance(inits, Mapping) else inits:
            module = modules.get(place.removeprefix('model').lstrip('.'))
            if not init.get('checkpoint') or module is None:
                continue
            where = f'{place}.init_cfg'
            if init['type'] in (PretrainedConvNeXt, PretrainedConvNeXt.__name__):
                yield from _check_recognized(part, init, where, thorough)
            else:
                yield from _check_plain(module, init['checkpoint'], where, init.get('prefix'))


def _check_recognized(
    part: Mapping, init: Mapping, where: str, thorough: bool
) -> Iterator[Finding]:
    """Weights that :func:`load_weights` reads, into the backbone that ``part`` builds."""
    options = {key: init[key] for key in ('strict', 'ema', 'prefix') if key in init}
    try:
        file = local_file(init['checkpoint'])
        if file and thorough:
            report = load_weights(MODELS.build(deepcopy(part)), file, **options)
            if report.surprises:
                what = f'{file}: {"; ".join(report.surprises)}'
                yield Finding(WARNING, what, where, 'leave out strict=False to make it an error')
    except (FileNotFoundError, TypeError, ValueError) as error:
        yield Finding(ERROR, str(error), where, 'name weights of this backbone')


def _check_plain(
    module: nn.Module, source: str, where: str, prefix: str | None = None
) -> Iterator[Finding]:
    """Weights that mmengine reads: it takes what has the same name and shape, and goes on."""
    try:
        file = local_file(source)
        checkpoint = read_checkpoint(file, mmap=True) if file else None
    except (FileNotFoundError, ValueError) as error:
        yield Finding(ERROR, str(error), where, 'name other weights')
        return
    if file is None:
        return
    tensors = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, Mapping) else {}
    start = f'{prefix.rstrip(".")}.' if prefix else ''
    shapes = {
        re.sub(r'^module\.', '', name.removeprefix(start)): tensor.shape
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor) and name.startswith(start)
    }
    places = module.state_dict()
    unfilled = [name for name, place in places.items() if shapes.get(name) != place.shape]
    if len(unfilled) == len(places):
        yield Finding(
            ERROR,
            f'nothing of {source!r} fits by name and shape: training would start from scratch',
            where,
            f'a ConvNeXt gets weights of any layout with {PretrainedConvNeXt.__name__} as the type '
            'of its init_cfg',
        )
    elif unfilled:
        kind = Kind(
            WARNING,
            f'tensors that {source!r} does not fill',
            'name the weights of this model, unless these are to be new, such as other heads',
        )
        yield several(kind, where, unfilled)
