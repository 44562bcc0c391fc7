"""The layers of Keras' ConvNeXts, and what they are called and shaped in ours.

``keras.applications`` builds the authors' network for images of (height, width, channels), so its
kernels end with the output channels. Stem and downsampling are a ``Sequential`` each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

# Class of a layer, as Keras' files spell it -> its variables in their order: Keras' name, ours.
VARIABLES: dict[str, dict[str, str]] = {
    'conv2d': {'kernel': '.weight', 'bias': '.bias'},
    'dense': {'kernel': '.weight', 'bias': '.bias'},
    'layer_normalization': {'gamma': '.weight', 'beta': '.bias'},
    'layer_scale': {'gamma': ''},
}
# Layers of a block: their name in Keras, class, name in ours.
BLOCK = (
    ('depthwise_conv', 'conv2d', 'dwconv'),
    ('layernorm', 'layer_normalization', 'norm'),
    ('pointwise_conv_1', 'dense', 'pwconv1'),
    ('pointwise_conv_2', 'dense', 'pwconv2'),
    ('layer_scale', 'layer_scale', 'gamma'),
)
# The only ones that keras.applications builds.
STAGES, PATCH_SIZE, NORM_EPS = 4, 4, 1e-6
HEAD_NORM = '_head_layernorm'


@dataclass(frozen=True)
class Layer:
    """A layer with variables.

    Attributes:
        name: Its name in Keras.
        kind: Its class, a key of :data:`VARIABLES`.
        ours: Our name of it.
        shape: Keras' shape of its first variable; a second one is as long as the last axis.
        inside: The name of the ``Sequential`` that it is in; empty outside.
    """

    name: str
    kind: str
    ours: str
    shape: tuple[int, ...]
    inside: str = ''

    def variables(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Return Keras' name, our name and Keras' shape of each variable, in Keras' order."""
        shapes = (self.shape, self.shape[-1:])
        return [
            (theirs, self.ours + suffix, shape)
            for (theirs, suffix), shape in zip(VARIABLES[self.kind].items(), shapes, strict=False)
        ]


def keras_layers(
    name: str,
    depths: Sequence[int],
    dims: Sequence[int],
    channels: int = 3,
    classes: int | None = None,
    layer_scale: bool = True,
) -> list[Layer]:
    """Return the layers with variables of a network, in the order of the network.

    Args:
        name: The name of the network, with which the names of its layers begin.
        depths: Number of blocks of each stage.
        dims: Channels of each stage.
        channels: Channels of the images.
        classes: Number of classes; None for a network without a head (``include_top=False``).
        layer_scale: Whether blocks scale their output.
    """
    layers = []
    for i, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
        layers += _downsampling(name, i, dims, channels)
        shapes = {
            'dwconv': (7, 7, 1, dim),
            'norm': (dim,),
            'pwconv1': (dim, 4 * dim),
            'pwconv2': (4 * dim, dim),
            'gamma': (dim,),
        }
        for j in range(depth):
            block = f'{name}_stage_{i}_block_{j}'
            layers += [
                Layer(f'{block}_{theirs}', kind, f'stages.{i}.{j}.{ours}', shapes[ours])
                for theirs, kind, ours in BLOCK
                if layer_scale or kind != 'layer_scale'
            ]
    # Without a head Keras leaves the name of the norm to chance: it counts the layers of a session.
    norm = 'layer_normalization' if classes is None else name + HEAD_NORM
    layers.append(Layer(norm, 'layer_normalization', 'norm', (dims[-1],)))
    if classes is not None:
        layers.append(Layer(f'{name}_head_dense', 'dense', 'head', (dims[-1], classes)))
    return layers


def _downsampling(name: str, i: int, dims: Sequence[int], channels: int) -> list[Layer]:
    """Return the layers before stage ``i``: the stem, or Keras' downsampling ``i - 1``."""
    ours = f'downsample_layers.{i}'
    if i == 0:
        inside, kernel = f'{name}_stem', (PATCH_SIZE, PATCH_SIZE, channels, dims[0])
        return [
            Layer(f'{name}_stem_conv', 'conv2d', f'{ours}.0', kernel, inside),
            Layer(f'{name}_stem_layernorm', 'layer_normalization', f'{ours}.1', (dims[0],), inside),
        ]
    inside, before = f'{name}_downsampling_block_{i - 1}', dims[i - 1]
    return [
        Layer(
            f'{name}_downsampling_layernorm_{i - 1}',
            'layer_normalization',
            f'{ours}.0',
            (before,),
            inside,
        ),
        Layer(
            f'{name}_downsampling_conv_{i - 1}',
            'conv2d',
            f'{ours}.1',
            (2, 2, before, dims[i]),
            inside,
        ),
    ]


def from_keras(values: Tensor) -> Tensor:
    """Return a variable in our shape: output channels first, then input channels."""
    if values.dim() == 4:
        values = values.permute(3, 2, 0, 1)
    return (values.T if values.dim() == 2 else values).contiguous()


def to_keras(values: Tensor) -> Tensor:
    """Return a variable in Keras' shape; the inverse of :func:`from_keras`."""
    if values.dim() == 4:
        values = values.permute(2, 3, 1, 0)
    return (values.T if values.dim() == 2 else values).contiguous()
