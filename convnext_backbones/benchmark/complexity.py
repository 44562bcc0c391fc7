"""Parameters and multiply-adds of a detector, a segmentor or a classifier, from its config alone.

The modules themselves run on torch's meta device, which knows shapes and no numbers: no weights, no
data, no GPU. torch's ``FlopCounterMode`` counts the convolutions and matrix products as they run,
whatever layer they stand in, so that any backbone is counted in full, attention included. It counts
two operations per multiply-add; this module and the paper count one.

RoIAlign and NMS do not run on that device. The heads of a detector get maps of the size that their
RoI extractor states instead, as many as the authors send through them.

The paper's figures are up to 0.3% higher. One operation per element for biases of convolutions,
ReLU and pooling, and two for batch normalization, account for that: with them all its figures for
ConvNeXt, ResNet and ResNeXt come out to the last digit. They are not counted here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..engine.build import WeightsOnMeta
from ..models.convnext import ConvNeXt, ConvNeXtClassifier
from .paper import PAPER_MODELS, Comparator

# What the authors send through each box head and each mask head, in every stage of a cascade.
PROPOSALS = 1000
MASKS = 100
CONVENTION = (
    'GMACs: 1e9 multiply-adds of one image, which the paper calls FLOPs, in convolutions, linear '
    'layers and the matrix products of attention. Not counted: normalization, activations, '
    'pooling, interpolation, RoIAlign, NMS. '
    f'Detectors: {PROPOSALS} proposals through each box head, {MASKS} through each mask head, in '
    'every stage of a cascade. Segmentors: no auxiliary head, which only trains; its parameters '
    'count.'
)


@dataclass(frozen=True)
class Part:
    """A part of a model: its parameters and its multiply-adds for one image."""

    name: str
    params: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """What a model costs, beside what the paper says.

    Attributes:
        name: Of the model.
        input_shape: Height and width of the image.
        parts: All of its parts, in the order in which they run.
        paper_gmacs: The paper's multiply-adds in 1e9, if it has them for this model and image.
        paper_params: The authors' parameters in 1e6, if they state them.
        note: Why the paper's figure is another one, if it is.
    """

    name: str
    input_shape: tuple[int, int]
    parts: tuple[Part, ...]
    paper_gmacs: float | None = None
    paper_params: float | None = None
    note: str = ''

    @property
    def params(self) -> int:
        """Parameters of the whole model."""
        return sum(part.params for part in self.parts)

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole model."""
        return sum(part.macs for part in self.parts)

    @property
    def macs_ratio(self) -> float | None:
        """Multiply-adds here over those of the paper."""
        return self.macs / 1e9 / self.paper_gmacs if self.paper_gmacs else None

    @property
    def params_ratio(self) -> float | None:
        """Parameters here over those of the paper."""
        return self.params / 1e6 / self.paper_params if self.paper_params else None


def build_classifier(arch: str) -> ConvNeXtClassifier:
    """The ImageNet classifier of a variant on the meta device."""
    with torch.device('meta'):
        return ConvNeXtClassifier(arch).eval()


def replace_backbone(cfg: Config, backbone: Mapping[str, Any]) -> Config:
    """The same model on another backbone; the channels that it is fed with follow.

    Args:
        cfg: A detector with an FPN or a segmentor; not changed.
        backbone: The config of the backbone, of the scope of ``cfg``.
    """
    cfg = deepcopy(cfg)
    cfg.model.backbone = dict(backbone)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), WeightsOnMeta():
        built = MODELS.build(dict(backbone))
    built.eval()
    with torch.no_grad():
        channels = [x.shape[1] for x in built.to('meta')(_image(built, (64, 64)))]
    if cfg.default_scope == 'mmdet':
        cfg.model.neck.in_channels = channels
    else:
        cfg.model.decode_head.in_channels = channels
        auxiliary = cfg.model.auxiliary_head
        auxiliary.in_channels = channels[auxiliary.in_index]
    return cfg


def count_parts(model: nn.Module, input_shape: tuple[int, int]) -> tuple[Part, ...]:
    """Count a model, part by part, for one image.

    Args:
        model: On the meta device: a two-stage detector of mmdet, an encoder-decoder of mmseg, or a
            :class:`~convnext_backbones.ConvNeXtClassifier`.
        input_shape: Height and width of the image.

    Raises:
        ValueError: The model is of another kind, or a part of it does not run on shapes alone.
    """
    if isinstance(model, ConvNeXtClassifier):
        return tuple(_run_backbone(model, input_shape)[1])
    heads = [name for name in ('roi_head', 'decode_head') if hasattr(model, name)]
    if not hasattr(model, 'backbone') or not heads:
        raise ValueError(
            'expected a two-stage detector of mmdet or an encoder-decoder of mmseg, got '
            f'{type(model).__name__}'
        )
    features, parts = _run_backbone(model.backbone, input_shape)
    if getattr(model, 'with_neck', False):
        features, part = _run('neck', model.neck, features)
        parts.append(part)
    run_heads = _run_detection_heads if 'roi_head' in heads else _run_segmentation_heads
    parts += run_heads(model, features)
    uncounted = _parameters(model) - sum(part.params for part in parts)
    if uncounted:
        raise ValueError(
            f'expected a {type(model).__name__} of backbone, neck and the usual heads, but '
            f'{uncounted:,} parameters belong to none of them; its children are '
            f'{", ".join(name for name, _ in model.named_children())}'
        )
    return tuple(parts)


def _run_detection_heads(model: nn.Module, features: tuple[Tensor, ...]) -> list[Part]:
    from mmdet.models.roi_heads import CascadeRoIHead, DynamicRoIHead, StandardRoIHead

    parts = []
    if model.with_rpn:
        parts.append(_run('RPN head', model.rpn_head, features)[1])
    roi_head = model.roi_head
    supported = (StandardRoIHead, CascadeRoIHead, DynamicRoIHead)
    if type(roi_head) not in supported:
        raise ValueError(
            f'expected an RoI head of type {", ".join(c.__name__ for c in supported)}, got '
            f'{type(roi_head).__name__}, whose forward pass this command does not know'
        )
    groups = [('box head', roi_head.bbox_head, roi_head.bbox_roi_extractor, PROPOSALS)]
    if roi_head.with_mask:
        groups.append(('mask head', roi_head.mask_head, roi_head.mask_roi_extractor, MASKS))
    shared_macs = 0
    for name, heads, extractors, number in groups:
        heads, extractors = _as_list(heads), _as_list(extractors)
        for i, (head, extractor) in enumerate(zip(heads, extractors, strict=True)):
            rois = torch.empty(
                (number, extractor.out_channels, *extractor.roi_layers[0].output_size),
                device='meta',
            )
            if roi_head.with_shared_head:  # the last stage of a ResNet, in detectors without FPN
                rois, macs = _count(roi_head.shared_head, rois)
                shared_macs += macs['']
            parts.append(_run(_numbered(name, i, heads), head, rois)[1])
    if roi_head.with_shared_head:
        parts.append(Part('shared head', _parameters(roi_head.shared_head), shared_macs))
    return parts


def _run_segmentation_heads(model: nn.Module, features: tuple[Tensor, ...]) -> list[Part]:
    parts, inputs = [], [features]
    heads = _as_list(model.decode_head)
    for i, head in enumerate(heads):
        logits, part = _run(_numbered('decode head', i, heads), head, *inputs)
        parts.append(part)
        inputs = [features, logits]  # the next head of a cascade refines what this one says
    if model.with_auxiliary_head:
        parts.append(Part('auxiliary head', _parameters(model.auxiliary_head), macs=0))
    return parts


def _run_backbone(
    backbone: nn.Module, input_shape: tuple[int, int]
) -> tuple[tuple[Tensor, ...], list[Part]]:
    """The maps of a backbone and its parts, stage by stage."""
    features, macs = _count(backbone, _image(backbone, input_shape))
    parts = []
    for name, paths in _stages(backbone).items():
        modules = {path: backbone.get_submodule(path) for path in paths}
        params = sum(_parameters(module) for module in modules.values())
        stage_macs = sum(_macs_under(path, module, macs) for path, module in modules.items())
        parts.append(Part(f'backbone: {name}', params, stage_macs))
    # What a backbone holds or computes itself, outside of its children, such as an embedding of
    # positions.
    parts.append(
        Part(
            'backbone: other',
            _parameters(backbone) - sum(part.params for part in parts),
            macs[''] - sum(part.macs for part in parts),
        )
    )
    return features, [part for part in parts if part.params or part.macs]


def _stages(backbone: nn.Module) -> dict[str, list[str]]:
    """The submodules that make up each stage; of other backbones than ours, each for itself."""
    if not isinstance(backbone, (ConvNeXt, ConvNeXtClassifier)):
        return {path: [path] for path in _paths(backbone)}
    stages = {'stem': ['downsample_layers.0'], 'stage 1': ['stages.0']}
    for i in range(1, len(backbone.stages)):
        stages[f'downsampling + stage {i + 1}'] = [f'downsample_layers.{i}', f'stages.{i}']
    if isinstance(backbone, ConvNeXt):
        stages['output norms'] = [f'norm{i}' for i in backbone.out_indices]
    else:
        stages['norm + head'] = ['norm', 'head']
    return stages


def _paths(module: nn.Module, prefix: str = '') -> Iterator[str]:
    """The children of a module; in place of a list of modules its members."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield from _paths(child, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}'


def _macs_under(path: str, module: nn.Module, macs: Mapping[str, int]) -> int:
    """The multiply-adds of a submodule, also if only its members were called, block by block."""
    if path in macs:
        return macs[path]
    return sum(
        _macs_under(f'{path}.{name}', child, macs) for name, child in module.named_children()
    )


def _run(name: str, module: nn.Module, *inputs: Any) -> tuple[Any, Part]:
    """The output of a module, and its cost as one part."""
    output, macs = _count(module, *inputs)
    return output, Part(name, _parameters(module), macs[''])


def _count(module: nn.Module, *inputs: Any) -> tuple[Any, dict[str, int]]:
    """The output of a module, and the multiply-adds of its submodules; its own are under ''."""
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


def _image(backbone: nn.Module, input_shape: tuple[int, int]) -> Tensor:
    """One image with the channels that the first convolution of a backbone takes."""
    convolutions = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    channels = next(convolutions).in_channels
    return torch.empty((1, channels, *input_shape), device='meta')


def _as_list(modules: nn.Module) -> list[nn.Module]:
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]


def _numbered(name: str, index: int, modules: list[nn.Module]) -> str:
    return f'{name} {index + 1}' if len(modules) > 1 else name


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def measure(name: str, model: nn.Module, input_shape: tuple[int, int] | None = None) -> Cost:
    """What a model costs, beside the paper's figures if ``name`` is one of its models.

    Args:
        name: A key of :data:`PUBLISHED`, or any other.
        model: On the meta device; see :func:`count_parts`.
        input_shape: Height and width of the image; by default those of the paper.

    Raises:
        ValueError: The paper does not say the size, or the model cannot be counted.
    """
    published = PAPER_MODELS.get(name)
    if input_shape is None:
        if published is None:
            raise ValueError(
                f'expected --shape H W for {name}, for which the paper states no size; its own '
                'are 800 1280 for detectors and 512 2048 for segmentors'
            )
        input_shape = published.input_shape
    if min(input_shape) < 1:
        raise ValueError(f'expected --shape H W of at least one pixel, got {input_shape}')
    parts = count_parts(model, input_shape)
    if published is None or tuple(input_shape) != published.input_shape:
        paper_params = published.paper_params if published else None
        return Cost(name, input_shape, parts, paper_params=paper_params)
    note = published.note if isinstance(published, Comparator) else ''
    return Cost(name, input_shape, parts, published.paper_gmacs, published.paper_params, note)
