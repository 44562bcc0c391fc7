"""Count the parameters and multiply-adds of a model, part by part.

The modules themselves run on torch's meta device, which computes shapes but no numbers. torch's
``FlopCounterMode`` counts the convolutions and matrix products as they run, whatever layer calls
them, so that any backbone is counted in full, attention included. It counts two operations per
multiply-add; this module and the paper count one.

RoIAlign and NMS do not run on the meta device. Instead, the heads of a detector get regions of the
size that their RoI extractor states, as many as the authors send through them. Transformers that
look at values run on the CPU, see :mod:`.counting_values`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..models.convnext import ConvNeXt, ConvNeXtClassifier
from .counting_values import Part, count_with_values, needs_values

# Regions that the authors send through each box head and each mask head, in every cascade stage.
PROPOSALS = 1000
MASKS = 100
# The parts of models that follow their necks.
HEADS = ('roi_head', 'decode_head', 'bbox_head', 'mask_head', 'panoptic_head')
Maps = tuple[Tensor, ...]


def count_parts(model: Any, input_shape: tuple[int, int]) -> tuple[Part, ...]:
    """Count the parameters and multiply-adds of a model, part by part, for one image.

    Args:
        model: On the meta device: a detector of mmdet with RoI heads of the usual kinds, with heads
            on maps, or with a transformer; an encoder-decoder of mmseg; or a
            :class:`~convnext_backbones.ConvNeXtClassifier`.
        input_shape: Height and width of the image.

    Returns:
        The parts in the order in which they run.

    Raises:
        ValueError: The model is of another kind, or a part of it does not run on the meta device.
    """
    if isinstance(model, ConvNeXtClassifier):
        return tuple(_run_backbone(model, input_shape)[1])
    heads = [name for name in HEADS if hasattr(model, name)]
    if not hasattr(model, 'backbone') or not heads:
        raise ValueError(
            'expected a detector of mmdet or an encoder-decoder of mmseg, got '
            f'{type(model).__name__}'
        )
    features, parts = _run_backbone(model.backbone, input_shape)
    if getattr(model, 'with_neck', False):
        features, part = _run('neck', model.neck, features)
        parts.append(part)
    if needs_values(model):
        parts += count_with_values(model, features, input_shape)
    elif 'roi_head' in heads:
        parts += _count_detection_heads(model, features)
    elif 'decode_head' in heads:
        parts += _count_segmentation_heads(model, features)
    else:
        parts += [_run(name.replace('_', ' '), getattr(model, name), features)[1] for name in heads]
    uncounted = _parameters(model) - sum(part.params for part in parts)
    if uncounted:
        raise ValueError(
            f'expected a {type(model).__name__} of backbone, neck and the usual heads, but '
            f'{uncounted:,} parameters belong to none of them; its children are '
            f'{", ".join(name for name, _ in model.named_children())}'
        )
    return tuple(parts)


def _count_detection_heads(model: Any, features: Maps) -> list[Part]:
    from mmdet.models.roi_heads import (
        CascadeRoIHead,
        DynamicRoIHead,
        HybridTaskCascadeRoIHead,
        StandardRoIHead,
    )

    parts = []
    if model.with_rpn:
        parts.append(_run('RPN head', model.rpn_head, features)[1])
    roi_head = model.roi_head
    supported = (StandardRoIHead, CascadeRoIHead, DynamicRoIHead, HybridTaskCascadeRoIHead)
    if type(roi_head) not in supported:
        raise ValueError(
            f'expected an RoI head of type {", ".join(c.__name__ for c in supported)}, got '
            f'{type(roi_head).__name__}, whose forward pass this command does not know'
        )
    groups = [('box head', roi_head.bbox_head, roi_head.bbox_roi_extractor, PROPOSALS)]
    if roi_head.with_mask:
        groups.append(('mask head', roi_head.mask_head, roi_head.mask_roi_extractor, MASKS))
    # The last stage of a ResNet, which detectors without FPN run on each region.
    shared_head = roi_head.shared_head if roi_head.with_shared_head else None
    shared_macs = 0
    passed_on: list[Tensor] = []
    for name, heads, extractors, number in groups:
        heads, extractors = _as_list(heads), _as_list(extractors)
        for i, (head, extractor) in enumerate(zip(heads, extractors, strict=True)):
            size = extractor.roi_layers[0].output_size
            regions = torch.empty((number, extractor.out_channels, *size), device='meta')
            if shared_head is not None:
                regions, macs = _count(shared_head, regions)
                shared_macs += macs['']
            output, part = _run(_numbered(name, i, heads), head, regions, *passed_on)
            parts.append(part)
            if type(head).__name__ == 'HTCMaskHead':  # the next one takes its maps, too
                passed_on = output[1:]
    if shared_head is not None:
        parts.append(Part('shared head', _parameters(shared_head), shared_macs))
    return parts


def _count_segmentation_heads(model: Any, features: Maps) -> list[Part]:
    parts = []
    inputs: list[Any] = [features]
    heads = _as_list(model.decode_head)
    for i, head in enumerate(heads):
        logits, part = _run(_numbered('decode head', i, heads), head, *inputs)
        parts.append(part)
        inputs = [features, logits]  # the next head of a cascade refines these logits
    if model.with_auxiliary_head:
        parts.append(Part('auxiliary head', _parameters(model.auxiliary_head), macs=0))
    return parts


def _run_backbone(backbone: nn.Module, input_shape: tuple[int, int]) -> tuple[Maps, list[Part]]:
    """Return the maps of a backbone and its parts, stage by stage."""
    features, macs = _count(backbone, image_for(backbone, input_shape))
    parts = []
    for name, paths in _stages(backbone).items():
        modules = {path: backbone.get_submodule(path) for path in paths}
        params = sum(_parameters(module) for module in modules.values())
        stage_macs = sum(_macs_under(path, module, macs) for path, module in modules.items())
        parts.append(Part(f'backbone: {name}', params, stage_macs))
    # Parameters and operations of the backbone itself, outside of its children, such as a position
    # embedding.
    parts.append(
        Part(
            'backbone: other',
            _parameters(backbone) - sum(part.params for part in parts),
            macs[''] - sum(part.macs for part in parts),
        )
    )
    return features, [part for part in parts if part.params or part.macs]


def _stages(backbone: nn.Module) -> dict[str, list[str]]:
    """Return the submodules of each stage; in backbones other than ours, a stage per submodule."""
    if not isinstance(backbone, (ConvNeXt, ConvNeXtClassifier)):
        return {path: [path] for path in _paths(backbone)}
    stages = {'stem': ['downsample_layers.0'], 'stage 1': ['stages.0']}
    for i in range(1, len(backbone.stages)):
        stages[f'downsampling + stage {i + 1}'] = [f'downsample_layers.{i}', f'stages.{i}']
    if isinstance(backbone, ConvNeXt):
        stages['output norms'] = [f'norm{i}' for i in backbone.out_indices]
    else:
        head = [path for path in ('pre_logits', 'head') if getattr(backbone, path) is not None]
        stages['norm + head' if head else 'norm'] = ['norm', *head]
    return stages


def _paths(module: nn.Module, prefix: str = '') -> Iterator[str]:
    """Yield the paths of a module's children; members take the place of a list of modules."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield from _paths(child, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}'


def _macs_under(path: str, module: nn.Module, macs: Mapping[str, int]) -> int:
    """Return the multiply-adds of a submodule, even if only its members were called directly."""
    if path in macs:
        return macs[path]
    return sum(
        _macs_under(f'{path}.{name}', child, macs) for name, child in module.named_children()
    )


def _run(name: str, module: nn.Module, *inputs: Any) -> tuple[Any, Part]:
    """Return the output of a module, and its cost as one part."""
    output, macs = _count(module, *inputs)
    return output, Part(name, _parameters(module), macs[''])


def _count(module: nn.Module, *inputs: Any) -> tuple[Any, dict[str, int]]:
    """Return the output of a module, and the multiply-adds of its submodules; '' is the module."""
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            output = module(*inputs)
    except (NotImplementedError, RuntimeError, TypeError) as error:
        raise ValueError(
            f'expected {type(module).__name__} to run at this image size, on the meta device and '
            f'with maps as its only input, but it says "{str(error).splitlines()[0]}"; try another '
            '--shape, or parts without compiled operators'
        ) from error
    root = type(module).__name__
    macs = {
        name.removeprefix(root).removeprefix('.'): sum(operations.values()) // 2
        for name, operations in counter.get_flop_counts().items()
        if name != 'Global'
    }
    return output, {'': 0, **macs}


def image_for(backbone: nn.Module, input_shape: tuple[int, int]) -> Tensor:
    """Return one image on the meta device, with the channels that the backbone expects."""
    convolutions = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    channels = next(convolutions).in_channels
    return torch.empty((1, channels, *input_shape), device='meta')


def _as_list(modules: nn.Module) -> list[Any]:
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]


def _numbered(name: str, index: int, modules: list[nn.Module]) -> str:
    return f'{name} {index + 1}' if len(modules) > 1 else name


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
