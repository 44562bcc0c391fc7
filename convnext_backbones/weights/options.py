"""Compare what a file tells about its network with the options of a model.

A file holds tensors only. Their names and shapes tell most options, and a difference then shows as
tensors that do not fit. What they do not tell, such as an activation, makes a wrong network of
weights that all fit; such files are known by their project and sizes.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..models.convnext import ConvNeXt, ConvNeXtClassifier
from ..models.variants import VARIANTS
from ..native.gradients import KERNEL_SIZE
from .layouts import TIMM
from .names import GRN, Recognized, sizes, variant_name

STEM = 'downsample_layers.0.0.weight'
# Networks of timm with another activation, by depths and dims.
TOYS: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {
    ((1, 2, 4, 2), (24, 32, 48, 64)): 'test_convnext, whose GELU is the tanh approximation',
    ((1, 1, 1, 1), (32, 64, 96, 128)): (
        'test_convnext2 or test_convnext3, whose activations are the tanh approximation of GELU '
        'and SiLU'
    ),
}

ConvNeXtModel = ConvNeXt | ConvNeXtClassifier


def hidden_differences(
    found: Recognized, network: Mapping[str, Tensor], model: ConvNeXtModel
) -> list[str]:
    """Return phrases about differences that change the outputs of weights that fit.

    Args:
        found: The names in the file.
        network: The tensors of the file under the authors' names.
        model: The model.
    """
    if found.layout is not TIMM:
        return []
    phrases = []
    toy = TOYS.get(sizes(network))
    if toy is not None:
        phrases.append(
            f'a file of timm with these sizes is of {toy}, with norms of another epsilon: the '
            'ConvNeXt here, with the exact GELU, would compute something else from its weights'
        )
    name = variant_name(*sizes(network))
    if name is not None and VARIANTS[name].norm_eps != model.norm_eps:
        eps = VARIANTS[name].norm_eps
        phrases.append(
            f'networks of these sizes have norms of epsilon {eps} in timm and open_clip, the '
            f'model {model.norm_eps}; build it with norm_eps={eps}'
        )
    if (
        isinstance(model, ConvNeXtClassifier)
        and 'norm.weight' in found.names
        and found.norm_before_pooling != model.head_norm_first
    ):
        place = 'before' if found.norm_before_pooling else 'after'
        phrases.append(
            f'the final norm of the file comes {place} the pooling, build with '
            f'head_norm_first={found.norm_before_pooling}'
        )
    return phrases


def visible_differences(
    network: Mapping[str, Tensor], model: ConvNeXtModel, other_classes: bool = False
) -> list[str]:
    """Return phrases that name the options of a model that do not fit a file.

    Args:
        network: The tensors of the file under the authors' names.
        model: The model.
        other_classes: Whether the model is a classifier for other classes, with a head of its own.
    """
    biases = {name.rpartition('.')[0] for name in network if name.endswith('.bias')}
    if 'stages.0.0.norm.weight' in network and 'stages.0.0.norm' not in biases:
        return [
            'its norms have no bias and compute something else, as in the *_rms models of timm; '
            'no option of the ConvNeXt here has them'
        ]
    return [
        *_kernel_difference(network),
        *_stem_differences(network, model),
        *_block_differences(network, model),
        *([] if other_classes else _head_differences(network, model)),
    ]


def _kernel_difference(network: Mapping[str, Tensor]) -> list[str]:
    kernels = {
        tensor.shape[-1]
        for name, tensor in network.items()
        if name.endswith('.dwconv.weight') and tensor.dim() == 4
    }
    if not kernels - {KERNEL_SIZE}:
        return []
    return [
        f'its depthwise convolutions have kernels of {", ".join(map(str, sorted(kernels)))}, those '
        f'of the ConvNeXt here {KERNEL_SIZE}, without an option for others'
    ]


def _stem_differences(network: Mapping[str, Tensor], model: ConvNeXtModel) -> list[str]:
    stem = network.get(STEM)
    if stem is None or stem.dim() != 4:
        return []
    phrases = []
    width, channels, size, _ = stem.shape
    second = network.get('downsample_layers.0.1.weight')
    stem_type = 'patch'
    if second is not None and second.dim() == 4:
        stem_type = 'overlap' if width == second.shape[0] else 'overlap_tiered'
    if stem_type != model.stem_type:
        kind = 'a stem of patches' if stem_type == 'patch' else 'an overlapping stem'
        phrases.append(f'the file has {kind}, build with stem_type={stem_type!r}')
    elif stem_type == 'patch' and size != model.patch_size:
        phrases.append(
            f'the file has patches of {size} x {size} pixels, build with patch_size={size}'
        )
    if channels not in (3, model.in_chans):
        phrases.append(
            f'the file is for images of {channels} channels, build with in_chans={channels}'
        )
    return phrases


def _block_differences(network: Mapping[str, Tensor], model: ConvNeXtModel) -> list[str]:
    is_v2 = any(map(GRN.fullmatch, network))
    if is_v2 and not model.use_grn:
        return ['the file is of ConvNeXt V2, build with use_grn=True']
    if model.use_grn and not is_v2:
        return ['the file is of ConvNeXt V1, which has no GRN: build with use_grn=False']
    has_scale = 'stages.0.0.gamma' in network
    if has_scale == ('stages.0.0.gamma' in model.state_dict()):
        return []
    if has_scale:
        return ['the model has no layer scale, build it with layer_scale_init_value=1.0']
    return ['the file has no layer scale, build with layer_scale_init_value=0']


def _head_differences(network: Mapping[str, Tensor], model: ConvNeXtModel) -> list[str]:
    if not isinstance(model, ConvNeXtClassifier) or model.head is None:
        return []
    head, hidden = network.get('head.weight'), network.get('pre_logits.weight')
    if head is None:
        return ['the file has no classifier, build with num_classes=0']
    if 0 in (head.dim(), 1 if hidden is None else hidden.dim()):  # a damaged file
        return []
    phrases = []
    width = None if hidden is None else hidden.shape[0]
    if width != (None if model.pre_logits is None else model.pre_logits.out_features):
        phrases.append(f'build with head_hidden_size={width}, as the head of the file')
    if head.shape[0] != model.head.out_features:
        phrases.append(
            f'the file has {head.shape[0]} classes, build with num_classes={head.shape[0]}, or '
            'with 0 for features'
        )
    return phrases
