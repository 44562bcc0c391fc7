"""Compare the parameters and multiply-adds of a model with the figures of the paper.

Needs neither weights nor data nor a GPU, only a config.

The paper's figures are up to 0.3% higher. It also counts one operation per element for biases of
convolutions, ReLU and pooling, and two for batch normalization: with these all its figures for
ConvNeXt, ResNet and ResNeXt are reproduced to the last digit. They are not counted here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from ..config.loading import load_config
from ..engine.build import WeightsOnMeta, build_on_meta
from ..experiments import EXPERIMENTS
from ..models.convnext import ConvNeXtClassifier
from ..recipes import HEAD_RECIPES, RECIPES, config_of
from .counting import MASKS, PROPOSALS, Part, count_parts, image_for
from .paper import CLASSIFIERS, COMPARATORS, PAPER_MODELS, Comparator

CONVENTION = (
    'GMACs: 1e9 multiply-adds of one image, which the paper calls FLOPs, in convolutions, linear '
    'layers and the matrix products of attention. Not counted: normalization, activations, '
    'pooling, interpolation, RoIAlign, NMS. '
    f'Detectors: {PROPOSALS} proposals through each box head, {MASKS} through each mask head, in '
    'every stage of a cascade. Segmentors: no auxiliary head, which is used in training only; its '
    'parameters count.'
)


@dataclass(frozen=True)
class Cost:
    """The cost of a model, beside the figures of the paper.

    Attributes:
        name: Name of the model.
        input_shape: Height and width of the image.
        parts: All parts, in the order in which they run.
        paper_gmacs: The paper's multiply-adds in 1e9, if it states them for this model and image.
        paper_params: The authors' parameters in 1e6, if they state them.
        note: Why the paper's figure differs, if it does.
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
        """Multiply-adds over those of the paper."""
        return self.macs / 1e9 / self.paper_gmacs if self.paper_gmacs else None

    @property
    def params_ratio(self) -> float | None:
        """Parameters over those of the paper."""
        return self.params / 1e6 / self.paper_params if self.paper_params else None


def find_models(query: str) -> list[str]:
    """Return the models that an argument stands for.

    Args:
        query: A config file, a name of the paper's models or of our recipes, or a comparator's
            backbone such as ``swin_t``, which stands for all models with this backbone.

    Raises:
        ValueError: There is no such model.
    """
    ours = {**RECIPES, **HEAD_RECIPES}
    if query.endswith('.py') or query in PAPER_MODELS or query in ours:
        return [query]
    matches = [name for name in COMPARATORS if f'_{query}_' in f'{name}_']
    if not matches:
        close = difflib.get_close_matches(query, [*PAPER_MODELS, *ours], n=1, cutoff=0.4)
        hint = f'did you mean {close[0]!r}?' if close else 'a config file ends with .py'
        raise ValueError(f'expected a config file or a model of the paper, got {query!r}; {hint}')
    return matches


def build_found(model: str, configs: Path) -> nn.Module:
    """Build a model of :func:`find_models` on the meta device.

    Args:
        model: A config file, or a name of the paper's models or of our recipes.
        configs: Folder of the published configs.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: The config cannot be read, or is not one of mmdet or mmseg.
    """
    if model in CLASSIFIERS:
        return build_classifier(CLASSIFIERS[model].arch, CLASSIFIERS[model].use_grn)
    if model in COMPARATORS:
        comparator = COMPARATORS[model]
        cfg = load_config(configs / f'{comparator.experiment}.py')
        return build_on_meta(replace_backbone(cfg, comparator.backbone))
    if model in RECIPES or model in HEAD_RECIPES:
        return build_on_meta(load_config(configs / config_of(model)))
    return build_on_meta(load_config(configs / f'{model}.py' if model in EXPERIMENTS else model))


def build_classifier(
    arch: str | Mapping | None, use_grn: bool = False, **options: Any
) -> ConvNeXtClassifier:
    """Build a classifier of V1 or V2, by default for ImageNet, on the meta device.

    Args:
        arch: As in :class:`~convnext_backbones.ConvNeXtClassifier`, and so are the others.
        use_grn: Whether it is a ConvNeXt V2.
        options: Other options of the classifier.

    Raises:
        ValueError: An option is out of its range.
    """
    with torch.device('meta'):
        return ConvNeXtClassifier(arch, use_grn=use_grn, **options).eval()


def replace_backbone(cfg: Config, backbone: Mapping[str, Any]) -> Config:
    """Return the config of a model with another backbone; neck and heads get its channels.

    Args:
        cfg: Config of a detector with an FPN or of a segmentor; it is not changed.
        backbone: Config of the backbone, in the scope of ``cfg``.
    """
    cfg = deepcopy(cfg)
    cfg.model.backbone = dict(backbone)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), WeightsOnMeta():
        built = MODELS.build(dict(backbone))
    built.eval()
    with torch.no_grad():
        channels = [x.shape[1] for x in built.to('meta')(image_for(built, (64, 64)))]
    if cfg.default_scope == 'mmdet':
        cfg.model.neck.in_channels = channels
    else:
        cfg.model.decode_head.in_channels = channels
        auxiliary = cfg.model.auxiliary_head
        auxiliary.in_channels = channels[auxiliary.in_index]
    return cfg


def image_size(name: str, input_shape: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return the height and width of the image for which a model is counted.

    Args:
        name: As in :func:`measure`.
        input_shape: What was asked for; None for the size in the tables.

    Raises:
        ValueError: The tables do not state a size, or it is no size.
    """
    if input_shape is None:
        sized = PAPER_MODELS.get(name) or RECIPES.get(name) or HEAD_RECIPES.get(name)
        if sized is None:
            raise ValueError(
                f'expected --shape H W for {name}, because the paper does not state its size; the '
                "paper's sizes are 800 1280 for detectors and 512 2048 for segmentors"
            )
        input_shape = sized.input_shape
    if min(input_shape) < 1:
        raise ValueError(f'expected --shape H W of at least one pixel, got {input_shape}')
    return input_shape


def measure(name: str, model: nn.Module, input_shape: tuple[int, int] | None = None) -> Cost:
    """Measure the cost of a model, beside the paper's figures if it is one of its models.

    Args:
        name: A key of :data:`~.paper.PAPER_MODELS`, ``RECIPES`` or ``HEAD_RECIPES``, or any other
            name.
        model: On the meta device; see :func:`~.counting.count_parts`.
        input_shape: Height and width of the image; by default those of the table.

    Raises:
        ValueError: The paper does not state the size, or the model cannot be counted.
    """
    published = PAPER_MODELS.get(name)
    input_shape = image_size(name, input_shape)
    parts = count_parts(model, input_shape)
    if published is None or tuple(input_shape) != published.input_shape:
        paper_params = published.paper_params if published else None
        return Cost(name, input_shape, parts, paper_params=paper_params)
    note = published.note if isinstance(published, Comparator) else ''
    return Cost(name, input_shape, parts, published.paper_gmacs, published.paper_params, note)
