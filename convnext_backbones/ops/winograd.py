"""3x3 convolutions with half of the multiplications, for inference on CPUs.

Four rows of the result need six products with sums of input rows instead of twelve: F(4, 3) of
"Fast Algorithms for Convolutional Neural Networks" (Lavin and Gray, CVPR 2016). It is applied along
the height only; each product is a convolution along the width, which oneDNN computes. Applied along
both axes it would need a fourth of the multiplications, but the sums take longer than that saves,
and the rounding error is 1.4e-5 of the largest value instead of 6e-6 (measured with AVX2,
2026-11-23).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 3
ROWS = 4  # rows of the result that are computed together
LINES = ROWS + KERNEL - 1  # rows of the input that they depend on
# Coefficients of the six sums of kernel rows that the factors of :func:`_factors` multiply.
KERNELS = (
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (1 / 4, 0, 0),
    (0, 0, 1),
)
# Bytes of one factor or product of a band. Measured as above: 4 to 16 MiB are equal; with 256
# channels, 1 MiB takes 1.2 times as long.
PART_BYTES = 4 * 2**20
# Below, the sums take as long as the multiplications that they save.
MIN_POSITIONS, MIN_CHANNELS = 3000, 192


def is_faster(weight: Tensor, x: Tensor) -> bool:
    """Whether :func:`convolve` with these arguments takes less time than oneDNN's convolution."""
    samples, _, height, width = x.shape
    return samples * height * width >= MIN_POSITIONS and min(weight.shape[:2]) >= MIN_CHANNELS


def is_covered(conv: nn.Conv2d) -> bool:
    """Whether :func:`convolve` computes what ``conv`` does."""
    return (
        conv.kernel_size == (KERNEL, KERNEL)
        and conv.padding == (KERNEL // 2, KERNEL // 2)
        and conv.padding_mode == 'zeros'
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
    )


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """Convolve ``x``, padded with a zero on all sides.

    Args:
        x: Of shape (N, C, H, W), fp32, on a CPU with oneDNN; best in channels_last.
        weight: Of shape (C', C, 3, 3).
        bias: Of shape (C',).
        relu: Whether negative results become zero.

    Returns:
        The result, of shape (N, C', H, W), in channels_last.
    """
    x = x.permute(0, 2, 3, 1).contiguous()  # (N, C, H, W) -> (N, H, W, C)
    samples, height, width, channels = x.shape
    # (C', C, 3, 3) -> (6, C', C, 1, 3)
    sums = torch.einsum('pk,oikw->poiw', weight.new_tensor(KERNELS), weight)[:, :, :, None]
    kernels = [kernel.contiguous(memory_format=torch.channels_last) for kernel in sums]
    fours = -(-height // ROWS)
    out = x.new_empty(samples, ROWS * fours, width, len(weight))
    limit = max(PART_BYTES // (width * max(channels, len(weight)) * x.element_size()), 1)
    together = max(limit // fours, 1)  # samples
    for some, target in zip(x.split(together), out.split(together), strict=True):
        for start in range(0, fours, limit):
            stop = min(start + limit, fours)
            lines = _lines(some, start, stop)
            # Every row of the result contains the first product once, so it carries the bias.
            biases = (bias, *[None] * len(KERNELS))
            products = map(_along_width, _factors(lines), kernels, biases)
            band = target[:, ROWS * start : ROWS * stop]
            _add_up([*products], [band[:, row::ROWS] for row in range(ROWS)])
            if relu:
                band.relu_()
    return out[:, :height].permute(0, 3, 1, 2)  # (N, H, W, C') -> (N, C', H, W)


def _lines(x: Tensor, start: int, stop: int) -> list[Tensor]:
    """Return the six input rows that each group of four rows of the result depends on.

    Args:
        x: Of shape (N, H, W, C).
        start: First group of four rows.
        stop: The group after the last.

    Returns:
        Six tensors of shape (N, stop - start, W, C), views where possible.
    """
    top, bottom = ROWS * start - KERNEL // 2, ROWS * stop + KERNEL // 2
    above, below = max(-top, 0), max(bottom - x.shape[1], 0)
    band = x[:, top + above : bottom - below]
    if above or below:
        band = F.pad(band, (0, 0, 0, 0, above, below))
    return [band[:, i::ROWS][:, : stop - start] for i in range(LINES)]


def _factors(lines: Sequence[Tensor]) -> Iterator[Tensor]:
    """Compute the six sums of lines, one after the other in the same memory."""
    even, odd = torch.sub(lines[4], lines[2], alpha=4), torch.sub(lines[3], lines[1], alpha=4)
    factor = even + odd
    yield factor
    yield torch.sub(even, odd, out=factor)
    torch.sub(lines[4], lines[2], out=even)
    torch.sub(lines[3], lines[1], out=odd)
    yield torch.add(even, odd, alpha=2, out=factor)
    yield torch.sub(even, odd, alpha=2, out=factor)
    yield torch.sub(lines[4], lines[2], alpha=5, out=factor).add_(lines[0], alpha=4)
    yield torch.sub(lines[5], lines[3], alpha=5, out=factor).add_(lines[1], alpha=4)


def _add_up(products: Sequence[Tensor], rows: Sequence[Tensor]) -> None:
    """Write the four sums of the products to ``rows``."""
    near = products[0] + products[1]
    far = products[2] + products[3]
    torch.add(near, far, out=rows[0]).add_(products[4])
    torch.add(near, far, alpha=4, out=rows[2])
    torch.sub(products[0], products[1], out=near)
    torch.sub(products[2], products[3], out=far)
    torch.add(near, far, alpha=2, out=rows[1])
    torch.add(near, far, alpha=8, out=rows[3]).add_(products[5])


def _along_width(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve (N, H, W, C) with a kernel of shape (C', C, 1, 3)."""
    convolved = torch.ops.mkldnn._convolution_pointwise(
        x.permute(0, 3, 1, 2), kernel, bias, [0, KERNEL // 2], [1, 1], [1, 1], 1, 'none', [], ''
    )
    return convolved.permute(0, 2, 3, 1)
