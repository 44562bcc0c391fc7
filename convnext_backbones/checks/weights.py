"""Check that the weights to start from exist and fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..config.walk import walk
from ..io.checkpoint import read_checkpoint
from ..io.download import is_url
from ..weights.loading import PretrainedConvNeXt, load_weights
from ..weights.published import find_published
from ..weights.zoo import local_file
from .findings import ERROR, WARNING, Finding, Kind, one_line, several


def check_weights(cfg: Config, model: nn.Module, thorough: bool) -> Iterator[Finding]:
    """Compare the weights to start from with the model, if they are on this machine.

    Weights that training downloads are compared after the download; it stops if they do not fit.

    Args:
        cfg: The config.
        model: Its model, which may be on the meta device.
        thorough: Load the weights of ConvNeXts into a backbone, not just find their files.
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
            entry = f'{place}.init_cfg'
            if init['type'] in (PretrainedConvNeXt, PretrainedConvNeXt.__name__):
                yield from _check_recognized(part, init, entry, thorough)
            else:
                yield from _check_plain(module, init['checkpoint'], entry, init.get('prefix'))


def _check_recognized(
    part: Mapping, init: Mapping, entry: str, thorough: bool
) -> Iterator[Finding]:
    """Check weights for :func:`load_weights` with the backbone that ``part`` builds."""
    options = {key: init[key] for key in ('strict', 'ema', 'prefix') if key in init}
    published = find_published(init['checkpoint'])
    if published is not None and published.obstacle:
        what = f'{init["checkpoint"]!r} cannot be loaded: {published.obstacle}'
        yield Finding(ERROR, what, entry, 'name other weights')
        return
    try:
        file = local_file(init['checkpoint'])
        if file and thorough:
            report = load_weights(MODELS.build(deepcopy(part)), file, **options)
            if report.surprises:
                what = f'{file}: {"; ".join(report.surprises)}'
                yield Finding(WARNING, what, entry, 'remove strict=False to make it an error')
    except (FileNotFoundError, TypeError, ValueError) as error:
        yield Finding(ERROR, one_line(error), entry, 'name weights of this backbone')


def _check_plain(
    module: nn.Module, source: str, entry: str, prefix: str | None = None
) -> Iterator[Finding]:
    """Check weights that mmengine loads: it skips tensors whose name or shape differs."""
    if not is_url(source) and not Path(source).expanduser().is_file():
        what = f'expected the path of a file or a URL, found nothing at {source!r}'
        fix = 'name other weights'
        if find_published(source):
            what += ', which is a name: mmengine looks up none'
            fix = f'give the type {PretrainedConvNeXt.__name__} in the init_cfg of the backbone'
        yield Finding(ERROR, what, entry, fix)
        return
    try:
        file = local_file(source)
        checkpoint = read_checkpoint(file, mmap=True) if file else None
    except (FileNotFoundError, ValueError) as error:
        yield Finding(ERROR, one_line(error), entry, 'name other weights')
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
            f'no tensor of {source!r} fits by name and shape: training would start from scratch',
            entry,
            f'for a ConvNeXt, set the type of its init_cfg to {PretrainedConvNeXt.__name__}, which '
            'reads weights of any layout',
        )
    elif unfilled:
        kind = Kind(
            WARNING,
            f'tensors that {source!r} does not fill',
            'name weights of this model, unless these tensors are to be new, such as other heads',
        )
        yield several(kind, unfilled, entry)
