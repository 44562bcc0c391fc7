"""Check that the weights to start from exist and fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..config.walk import walk
from ..io.checkpoint import read_checkpoint
from ..io.download import is_url
from ..models.convnext import ConvNeXt
from ..weights.loading import PretrainedConvNeXt, load_weights
from ..weights.matching import in_own_names
from ..weights.published import find_published
from ..weights.rows import PublishedWeights
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
                yield from _check_recognized(part, module, init, entry, thorough)
            else:
                yield from _check_plain(module, init['checkpoint'], entry, init.get('prefix'))


def _check_recognized(
    part: Mapping, module: nn.Module, init: Mapping, entry: str, thorough: bool
) -> Iterator[Finding]:
    """Check weights for :func:`load_weights` with the backbone ``module`` that ``part`` builds."""
    options = {key: init[key] for key in ('strict', 'ema', 'prefix') if key in init}
    published = find_published(init['checkpoint'])
    if published is not None and published.obstacle:
        what = f'{init["checkpoint"]!r} cannot be loaded: {published.obstacle}'
        yield Finding(ERROR, what, entry, 'name other weights')
        return
    try:
        file = local_file(init['checkpoint'])
        if file is None and options.get('strict', True):
            yield from _check_options(published, module, init['checkpoint'], entry)
        if file and thorough:
            report = load_weights(MODELS.build(deepcopy(part)), file, **options)
            if report.surprises:
                what = f'{file}: {"; ".join(report.surprises)}'
                yield Finding(WARNING, what, entry, 'remove strict=False to make it an error')
    except (FileNotFoundError, TypeError, ValueError) as error:
        yield Finding(ERROR, one_line(error), entry, 'name weights of this backbone')


def _check_options(
    published: PublishedWeights | None, backbone: nn.Module, name: str, entry: str
) -> Iterator[Finding]:
    """Compare a backbone with what is known of weights that are still to be downloaded."""
    if published is None or published.method or not isinstance(backbone, ConvNeXt):
        return
    options = published.backbone_options()
    with torch.device('meta'):
        wanted = ConvNeXt(**options)
    facts = ('variant', 'use_grn', 'stem_type', 'patch_size', 'norm_eps')
    if all(getattr(wanted, fact) == getattr(backbone, fact) for fact in facts):
        return
    settings = ', '.join(f'{key}={value!r}' for key, value in options.items())
    what = f'{name!r} are weights of another network than the backbone'
    yield Finding(ERROR, what, entry, f'build the backbone with {settings}, or name other weights')


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
    if isinstance(getattr(module, 'backbone', None), ConvNeXt):
        shapes = {name: tensor.shape for name, tensor in in_own_names(tensors).items()} | shapes
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
