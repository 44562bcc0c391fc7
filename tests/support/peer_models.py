"""Independent implementations of ConvNeXt behind one interface, and the comparison with ours.

The renaming tables are written out here, apart from those of the package, so that its own weight
handling cannot hide a mistake.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from convnext_backbones import (
    VARIANTS,
    ConvNeXt,
    ConvNeXtClassifier,
    LoadReport,
    load_weights,
)
from convnext_backbones.benchmark.case import randomize as draw_parameters
from convnext_backbones.benchmark.peers import import_mmpretrain

# The largest difference that passes in fp32, as a fraction of the largest value. Rounding alone
# gives xlarge 4e-6; in fp64, where nothing else changes, 5e-15.
TOLERANCE = 1e-5
# Width and height differ, and both are divisible by 32, where all implementations agree.
INPUT_SHAPE = (1, 3, 64, 96)
# The sizes that were trained: huge is of V2 only, xxlarge of CLIP only, which timm builds.
V1_VARIANTS = ('atto', 'femto', 'pico', 'nano', 'tiny', 'small', 'base', 'large', 'xlarge')
V2_VARIANTS = ('atto', 'femto', 'pico', 'nano', 'tiny', 'base', 'large', 'huge')
DINOV3_VARIANTS = ('tiny', 'small', 'base', 'large')


class Peer:
    """One implementation.

    Attributes:
        name: The distribution on PyPI, which is also the module.
        layout: The name of its layout in reports.
        variants: Names of our table that it has.
        options: What our models need to be the same network.
        head: What our classifier needs beyond that.
        has_output_norms: Whether its maps are normalized; if not, our norms are applied to them.
        renaming: (pattern, replacement) pairs that turn its parameter names into ours. Exactly
            one of them must match a name in full.
    """

    name: str
    layout: str
    variants: tuple[str, ...] = V1_VARIANTS
    options: Mapping = dict(layer_scale_init_value=1.0)
    head: Mapping = {}
    has_output_norms = False
    renaming: tuple[tuple[str, str], ...]

    def installed(self) -> bool:
        """Whether the module can be found; says nothing about whether it can be imported."""
        return importlib.util.find_spec(self.name) is not None

    def build(self, variant: str, **options) -> nn.Module:
        """A backbone that gives the outputs of all four stages, with any weights."""
        raise NotImplementedError

    def build_classifier(self, variant: str) -> nn.Module:
        """The 1000-class network, with any weights."""
        raise NotImplementedError

    def maps(self, module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        """The maps of the four stages, (N, C_i, H_i, W_i) each."""
        raise NotImplementedError

    def logits(self, module: nn.Module, x: Tensor) -> Tensor:
        """The output of what :meth:`build_classifier` built, (N, 1000)."""
        return module(x)

    def backbone(self, variant: str) -> ConvNeXt:
        """Our backbone of the same network."""
        return ConvNeXt(variant, **self.options)

    def classifier(self, variant: str) -> ConvNeXtClassifier:
        """Our classifier of the same network."""
        return ConvNeXtClassifier(variant, **self.options, **self.head)

    def tensors(self, variant: str) -> int:
        """The number of tensors of the trunk."""
        per_block = 10 if self.options.get('use_grn') else 9
        return per_block * sum(VARIANTS[variant].depths) + 16

    def save(self, module: nn.Module, folder: Path) -> Path:
        """Write the weights of ``module`` as its users do; the file."""
        path = folder / f'{self.name}.pth'
        torch.save(module.state_dict(), path)
        return path

    def rename(self, key: str) -> str:
        """Our name of its parameter ``key``."""
        found = [
            re.sub(pattern, replacement, key)
            for pattern, replacement in self.renaming
            if re.fullmatch(pattern, key)
        ]
        if len(found) != 1:
            raise KeyError(f'{len(found)} rules of {self.name} match the parameter {key!r}')
        return found[0]

    def copy_weights(self, ours: nn.Module, peer: nn.Module) -> int:
        """Let ``peer`` use the tensors of ``ours``, all of them; returns their number."""
        source = ours.state_dict()
        weights = {}
        for key, parameter in peer.state_dict().items():
            tensor = source.pop(self.rename(key))
            # Same matrix or vector, up to axes of length one: 1x1 convolutions, (C, 1, 1) scales.
            assert [n for n in tensor.shape if n > 1] == [n for n in parameter.shape if n > 1], key
            weights[key] = tensor.reshape(parameter.shape)
        left = {key for key in source if self.has_output_norms or not re.match(r'norm\d\.', key)}
        assert not left, f'{self.name} has no counterpart of {sorted(left)}'
        # assign: no second copy of xlarge in memory, and models built on the meta device work.
        peer.load_state_dict(weights, assign=True)
        return len(weights)


class Transformers(Peer):
    """Hugging Face's, which has no named sizes: it takes any."""

    name = layout = 'transformers'
    version = ''
    has_output_norms = True
    renaming = (
        (r'(?:convnext\.)?embeddings\.patch_embeddings\.(\w+)', r'downsample_layers.0.0.\1'),
        (r'(?:convnext\.)?embeddings\.layernorm\.(\w+)', r'downsample_layers.0.1.\1'),
        (
            r'(?:convnext\.)?encoder\.stages\.(\d+)\.downsampling_layer\.([01])\.(\w+)',
            r'downsample_layers.\1.\2.\3',
        ),
        (
            r'(?:convnext\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\.(dwconv|pwconv[12])\.(\w+)',
            r'stages.\1.\2.\3.\4',
        ),
        (
            r'(?:convnext\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\.layernorm\.(\w+)',
            r'stages.\1.\2.norm.\3',
        ),
        (
            r'(?:convnext\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\.layer_scale_parameter',
            r'stages.\1.\2.gamma',
        ),
        *((rf'hidden_states_norms\.stage{i + 1}\.(\w+)', rf'norm{i}.\1') for i in range(4)),
        (r'convnext\.layernorm\.(\w+)', r'norm.\1'),
        (r'classifier\.(\w+)', r'head.\1'),
    )

    def _config(self, variant: str, **kwargs):
        sizes = VARIANTS[variant]
        return self._of('Config')(
            depths=list(sizes.depths),
            hidden_sizes=list(sizes.dims),
            # Its default for the norm after pooling, 1e-12, is not the authors'.
            layer_norm_eps=1e-6,
            **(kwargs if self.version else dict(layer_scale_init_value=1.0, **kwargs)),
        )

    def _of(self, kind: str) -> type:
        import transformers

        return getattr(transformers, f'ConvNext{self.version}{kind}')

    def build(self, variant: str) -> nn.Module:
        stages = [f'stage{i}' for i in range(1, 5)]
        with torch.device('meta'):
            return self._of('Backbone')(self._config(variant, out_features=stages))

    def save(self, module: nn.Module, folder: Path) -> Path:
        module.save_pretrained(folder)
        return folder / 'model.safetensors'

    def build_classifier(self, variant: str) -> nn.Module:
        with torch.device('meta'):
            return self._of('ForImageClassification')(self._config(variant, num_labels=1000))

    def maps(self, module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(module(x).feature_maps)

    def logits(self, module: nn.Module, x: Tensor) -> Tensor:
        return module(x).logits


class TransformersV2(Transformers):
    """The same project's V2, in code of its own."""

    version = 'V2'
    variants = V2_VARIANTS
    options = dict(use_grn=True)
    renaming = (
        (
            r'(?:convnextv2\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\.grn\.weight',
            r'stages.\1.\2.grn.gamma',
        ),
        (
            r'(?:convnextv2\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\.grn\.bias',
            r'stages.\1.\2.grn.beta',
        ),
        *((old.replace('convnext', 'convnextv2'), new) for old, new in Transformers.renaming),
    )


class TransformersDINOv3(Peer):
    """The same project's DINOv3: no output norms, and one after the last stage, also per position.

    Its classifier, without a head, is the model whose pooled features users take.
    """

    name = 'transformers'
    layout = 'dinov3'
    variants = DINOV3_VARIANTS
    head = dict(num_classes=0)
    renaming = (
        (r'model\.stages\.(\d+)\.downsample_layers\.([01])\.(\w+)', r'downsample_layers.\1.\2.\3'),
        (r'model\.stages\.(\d+)\.layers\.(\d+)\.depthwise_conv\.(\w+)', r'stages.\1.\2.dwconv.\3'),
        (r'model\.stages\.(\d+)\.layers\.(\d+)\.layer_norm\.(\w+)', r'stages.\1.\2.norm.\3'),
        (
            r'model\.stages\.(\d+)\.layers\.(\d+)\.pointwise_conv([12])\.(\w+)',
            r'stages.\1.\2.pwconv\3.\4',
        ),
        (r'model\.stages\.(\d+)\.layers\.(\d+)\.gamma', r'stages.\1.\2.gamma'),
        (r'layer_norm\.(\w+)', r'norm.\1'),
    )

    def _build(self, kind: str, variant: str) -> nn.Module:
        import transformers

        config = transformers.DINOv3ConvNextConfig(
            depths=list(VARIANTS[variant].depths),
            hidden_sizes=list(VARIANTS[variant].dims),
            out_features=[f'stage{i}' for i in range(1, 5)],
        )
        with torch.device('meta'):
            return getattr(transformers, f'DINOv3ConvNext{kind}')(config)

    def build(self, variant: str) -> nn.Module:
        return self._build('Backbone', variant)

    def build_classifier(self, variant: str) -> nn.Module:
        return self._build('Model', variant)

    def save(self, module: nn.Module, folder: Path) -> Path:
        module.save_pretrained(folder)
        return folder / 'model.safetensors'

    def maps(self, module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(module(x).feature_maps)

    def logits(self, module: nn.Module, x: Tensor) -> Tensor:
        return module(x).pooler_output


class MMPretrain(Peer):
    """OpenMMLab's classification package."""

    name = layout = 'mmpretrain'
    kwargs: Mapping = dict(layer_scale_init_value=1.0)
    has_output_norms = True
    renaming = (
        (r'(?:backbone\.)?(downsample_layers\.\d+\.[01]\.\w+)', r'\1'),
        (
            r'(?:backbone\.)?stages\.(\d+)\.(\d+)\.depthwise_conv\.(\w+)',
            r'stages.\1.\2.dwconv.\3',
        ),
        (
            r'(?:backbone\.)?stages\.(\d+)\.(\d+)\.pointwise_conv([12])\.(\w+)',
            r'stages.\1.\2.pwconv\3.\4',
        ),
        (r'(?:backbone\.)?(stages\.\d+\.\d+\.(?:gamma|norm\.\w+))', r'\1'),
        (r'(norm\d\.\w+)', r'\1'),
        (r'backbone\.norm3\.(\w+)', r'norm.\1'),
        (r'head\.fc\.(\w+)', r'head.\1'),
    )

    def build(self, variant: str, linear_pw_conv: bool = True) -> nn.Module:
        import_mmpretrain()
        from mmpretrain.models.backbones.convnext import ConvNeXt as MMPretrainConvNeXt

        return MMPretrainConvNeXt(
            arch=variant,
            out_indices=(0, 1, 2, 3),
            gap_before_final_norm=False,
            linear_pw_conv=linear_pw_conv,
            **self.kwargs,
        )

    def build_classifier(self, variant: str) -> nn.Module:
        import_mmpretrain()
        from mmpretrain.models import ImageClassifier

        width = VARIANTS[variant].dims[-1]
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            return ImageClassifier(
                backbone=dict(type='ConvNeXt', arch=variant, **self.kwargs),
                head=dict(type='LinearClsHead', num_classes=1000, in_channels=width),
            )

    def maps(self, module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        return module(x)

    def logits(self, module: nn.Module, x: Tensor) -> Tensor:
        return module(x, mode='tensor')


class MMPretrainV2(MMPretrain):
    """The same with the keywords that make it V2."""

    variants = V2_VARIANTS
    options = dict(use_grn=True)
    kwargs = dict(use_grn=True, layer_scale_init_value=0.0)
    renaming = (
        (r'(?:backbone\.)?(stages\.\d+\.\d+\.grn\.(?:gamma|beta))', r'\1'),
        *MMPretrain.renaming,
    )


class Timm(Peer):
    """timm, whose feature extractor has no output norms."""

    name = layout = 'timm'
    variants = (*V1_VARIANTS, 'xxlarge')
    model = 'convnext_{}'
    renaming = (
        (r'stem[._]([01])\.(\w+)', r'downsample_layers.0.\1.\2'),
        (r'stages[._](\d+)\.downsample\.([01])\.(\w+)', r'downsample_layers.\1.\2.\3'),
        (r'stages[._](\d+)\.blocks\.(\d+)\.conv_dw\.(\w+)', r'stages.\1.\2.dwconv.\3'),
        (r'stages[._](\d+)\.blocks\.(\d+)\.mlp\.fc([12])\.(\w+)', r'stages.\1.\2.pwconv\3.\4'),
        (r'stages[._](\d+)\.blocks\.(\d+)\.(gamma|norm\.\w+)', r'stages.\1.\2.\3'),
        (r'head\.norm\.(\w+)', r'norm.\1'),
        (r'head\.fc\.(\w+)', r'head.\1'),
    )

    def build(self, variant: str) -> nn.Module:
        import timm

        return timm.create_model(
            self.model.format(variant),
            features_only=True,
            out_indices=(0, 1, 2, 3),
            device='meta',
        )

    def build_classifier(self, variant: str) -> nn.Module:
        import timm

        return timm.create_model(
            self.model.format(variant),
            num_classes=self.head.get('num_classes', 1000),
            device='meta',
        )

    def maps(self, module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(module(x))


class TimmV2(Timm):
    """timm's V2."""

    variants = V2_VARIANTS
    options = dict(use_grn=True)
    model = 'convnextv2_{}'
    renaming = (
        (r'stages[._](\d+)\.blocks\.(\d+)\.mlp\.grn\.weight', r'stages.\1.\2.grn.gamma'),
        (r'stages[._](\d+)\.blocks\.(\d+)\.mlp\.grn\.bias', r'stages.\1.\2.grn.beta'),
        *Timm.renaming,
    )


class TimmDINOv3(Timm):
    """timm's DINOv3: V1 without a classifier."""

    variants = DINOV3_VARIANTS
    head = dict(num_classes=0)
    model = 'convnext_{}.dinov3_lvd1689m'


class Torchvision(Peer):
    """torchvision, which has classifiers only: the maps are taken between its layers."""

    name = layout = 'torchvision'
    variants = ('tiny', 'small', 'base', 'large')
    # Stem, stage, downsampling, stage, ...: even children of `features` change the resolution.
    renaming = (
        *(
            (rf'features\.{2 * i}\.([01])\.(\w+)', rf'downsample_layers.{i}.\1.\2')
            for i in range(4)
        ),
        *(
            (rf'features\.{2 * i + 1}\.(\d+)\.{theirs}', rf'stages.{i}.\1.{ours}')
            for i in range(4)
            for theirs, ours in (
                (r'block\.0\.(\w+)', r'dwconv.\2'),
                (r'block\.2\.(\w+)', r'norm.\2'),
                (r'block\.3\.(\w+)', r'pwconv1.\2'),
                (r'block\.5\.(\w+)', r'pwconv2.\2'),
                (r'layer_scale', r'gamma'),
            )
        ),
        (r'classifier\.0\.(\w+)', r'norm.\1'),
        (r'classifier\.2\.(\w+)', r'head.\1'),
    )

    def build(self, variant: str) -> nn.Module:
        module = self.build_classifier(variant)
        del module.classifier
        return module

    def build_classifier(self, variant: str) -> nn.Module:
        import torchvision

        with torch.device('meta'):
            return getattr(torchvision.models, f'convnext_{variant}')()

    def maps(self, module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for i, layer in enumerate(module.features):
            x = layer(x)
            if i % 2:
                maps.append(x)
        return tuple(maps)


PEERS: dict[str, Peer] = {
    'transformers': Transformers(),
    'transformers V2': TransformersV2(),
    'transformers DINOv3': TransformersDINOv3(),
    'mmpretrain': MMPretrain(),
    'mmpretrain V2': MMPretrainV2(),
    'timm': Timm(),
    'timm V2': TimmV2(),
    'timm DINOv3': TimmDINOv3(),
    'torchvision': Torchvision(),
}


def cases(fast: Mapping[str, Sequence[str]]) -> list:
    """Peers with all their sizes, as parameters, of which those that are not in ``fast`` are slow.

    Args:
        fast: Sizes by the name of the peer.
    """
    return [
        pytest.param(name, variant, marks=[] if variant in variants else pytest.mark.slow)
        for name, variants in fast.items()
        for variant in PEERS[name].variants
    ]


@dataclass(frozen=True)
class Differences:
    """The largest differences of one comparison, per stage, as fractions of our largest value.

    Attributes:
        tensors: Number of parameters that were copied or loaded.
        outputs: Of the normalized maps, or the logits; their RMS is within a factor of two of one.
        gradients: Of the gradients with respect to the input.
    """

    tensors: int
    outputs: tuple[float, ...]
    gradients: tuple[float, ...]


def compare_backbones(peer: Peer, variant: str, dtype: torch.dtype = torch.float32) -> Differences:
    """Ours against one peer on the same random weights: maps and input gradients per stage."""
    with torch.device('meta'):
        ours = peer.backbone(variant)
    randomize(ours, dtype)
    theirs = peer.build(variant)
    theirs.eval()  # mmpretrain's returns None
    tensors = peer.copy_weights(ours, theirs)
    return compare(ours, _maps_of(peer, theirs, ours), tensors, dtype)


def compare_classifiers(peer: Peer, variant: str) -> Differences:
    """Ours against one peer on the same random weights: logits and their input gradients."""
    with torch.device('meta'):
        ours = peer.classifier(variant)
    randomize(ours)
    theirs = peer.build_classifier(variant).eval()
    tensors = peer.copy_weights(ours, theirs)
    return compare(lambda x: [ours(x)], lambda x: [peer.logits(theirs, x)], tensors)


def compare_backbone_files(
    peer: Peer, variant: str, folder: Path, **options
) -> tuple[LoadReport, Differences]:
    """A peer with random weights against ours, which loads the file that the peer writes."""
    with torch.device('meta'):
        weights = peer.backbone(variant)
        ours = peer.backbone(variant)
    randomize(weights)
    theirs = peer.build(variant, **options)
    theirs.eval()  # mmpretrain's returns None
    peer.copy_weights(weights, theirs)
    ours.to_empty(device='cpu').eval()
    for i in range(4):  # what a file without output norms leaves as it is
        getattr(ours, f'norm{i}').load_state_dict(getattr(weights, f'norm{i}').state_dict())
    del weights
    report = load_weights(ours, peer.save(theirs, folder))
    return report, compare(ours, _maps_of(peer, theirs, ours), len(report.loaded))


def compare_classifier_files(
    peer: Peer, variant: str, folder: Path
) -> tuple[LoadReport, Differences]:
    """The same for the classifier and its logits."""
    with torch.device('meta'):
        weights, ours = (peer.classifier(variant) for _ in range(2))
    randomize(weights)
    theirs = peer.build_classifier(variant)
    theirs.eval()
    peer.copy_weights(weights, theirs)
    del weights
    ours.to_empty(device='cpu').eval()
    report = load_weights(ours, peer.save(theirs, folder))
    return report, compare(
        lambda x: [ours(x)], lambda x: [peer.logits(theirs, x)], len(report.loaded)
    )


def randomize(module: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Give a module on the meta device random weights that hide nothing.

    Norms and layer scale, ones at the start of training, are drawn too, and GRN, zero then: an
    affine that is forgotten or swapped shows. The module is left in evaluation mode, without
    parameter gradients.
    """
    module.to(dtype).to_empty(device='cpu').eval().requires_grad_(False)
    draw_parameters(module, layer_scale=(0.1, 0.3))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        if '.grn.' in name:
            parameter.uniform_(-0.5, 0.5, generator=generator)


def _maps_of(peer: Peer, theirs: nn.Module, ours: ConvNeXt) -> Callable[[Tensor], Sequence[Tensor]]:
    """The maps of a peer, normalized by our output norms if it has none of its own."""

    def maps(x: Tensor) -> list[Tensor]:
        found = peer.maps(theirs, x)
        assert len(found) == 4
        if peer.has_output_norms:
            return list(found)
        return [getattr(ours, f'norm{i}')(map_) for i, map_ in enumerate(found)]

    return maps


def compare(
    ours: Callable[[Tensor], Sequence[Tensor]],
    theirs: Callable[[Tensor], Sequence[Tensor]],
    tensors: int,
    dtype: torch.dtype = torch.float32,
) -> Differences:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(INPUT_SHAPE, dtype=dtype, generator=generator)
    our_outputs, our_gradients = _outputs_and_gradients(ours, x)
    peer_outputs, peer_gradients = _outputs_and_gradients(theirs, x)
    for output in our_outputs:
        assert 0.5 < _rms(output) < 2, f'outputs of RMS {_rms(output)} are not of unit scale'
    return Differences(
        tensors=tensors,
        outputs=_largest(our_outputs, peer_outputs),
        gradients=_largest(our_gradients, peer_gradients),
    )


def _outputs_and_gradients(
    forward: Callable[[Tensor], Sequence[Tensor]], x: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    x = x.clone().requires_grad_()
    outputs = forward(x)
    gradients = []
    for i, output in enumerate(outputs):
        generator = torch.Generator().manual_seed(2 + i)
        # Random: LayerNorm has no gradient along the sum that a plain .sum() would take.
        cotangent = torch.randn(output.shape, dtype=output.dtype, generator=generator)
        (gradient,) = torch.autograd.grad(output, x, cotangent, retain_graph=True)
        gradients.append(gradient)
    return [output.detach() for output in outputs], gradients


def _rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def _largest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> tuple[float, ...]:
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape, (a.shape, b.shape)
    return tuple(
        ((a - b).abs().max() / a.abs().max()).item() for a, b in zip(ours, theirs, strict=True)
    )
