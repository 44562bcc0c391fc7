"""Find the model that a file of weights fits, from its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..models.trunk import PATCH_SIZE
from .names import GRN, Recognized, sizes, variant_name
from .options import STEM

FINAL_NORM, HEAD, HIDDEN = 'norm.weight', 'head.weight', 'pre_logits.weight'


def read_options(found: Recognized, network: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the keywords of the :class:`~convnext_backbones.ConvNeXtClassifier` for a file.

    What tensors do not tell, such as an epsilon that is not the variant's, has its default.

    Args:
        found: The names in the file.
        network: The tensors of the file under the authors' names, in our shapes.

    Raises:
        ValueError: The file lacks a part that every ConvNeXt has.
    """
    depths, dims = sizes(network)
    stem = network.get(STEM)
    if stem is None or stem.dim() != 4:
        raise ValueError(
            f'expected the weights of a whole ConvNeXt, got {len(depths)} stages without the '
            f'weight of a stem, {STEM} in the names of the authors'
        )
    name = variant_name(depths, dims)
    options: dict[str, Any] = dict(arch=name or dict(depths=depths, dims=dims))
    use_grn, has_scale = any(map(GRN.fullmatch, network)), 'stages.0.0.gamma' in network
    if use_grn:
        options['use_grn'] = True
    if use_grn == has_scale:  # V2 has none, V1 has one
        options['layer_scale_init_value'] = float(has_scale)
    if (stem_type := _stem_type(network)) != 'patch':
        options['stem_type'] = stem_type
    elif stem.shape[-1] != PATCH_SIZE:
        options['patch_size'] = stem.shape[-1]
    if stem.shape[1] != 3:
        options['in_chans'] = stem.shape[1]
    if found.layout.name == 'timm' and found.norm_before_pooling:
        options['head_norm_first'] = True
    if HIDDEN in network:
        options['head_hidden_size'] = network[HIDDEN].shape[0]
    options['num_classes'] = network[HEAD].shape[0] if HEAD in network else 0
    return options


def _stem_type(network: Mapping[str, Tensor]) -> str:
    """Return the option of the model; a second convolution overlaps, a norm follows patches."""
    second = network.get('downsample_layers.0.1.weight')
    if second is None or second.dim() != 4:
        return 'patch'
    return 'overlap' if network[STEM].shape[0] == second.shape[0] else 'overlap_tiered'
