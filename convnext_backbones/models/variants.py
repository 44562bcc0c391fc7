"""The sizes of ConvNeXt: the only table of depths and channels."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

# The authors', for all norms.
NORM_EPS = 1e-6


@dataclass(frozen=True)
class Variant:
    """One size of ConvNeXt.

    Attributes:
        depths: Number of blocks of each stage.
        dims: Channels of each stage; stage ``i`` works at stride ``4 * 2**i``.
        norm_eps: Epsilon of all norms. No file of weights states it, and another value gives other
            outputs without any error.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    norm_eps: float = NORM_EPS


# tiny to xlarge: "A ConvNet for the 2020s", section 3 and appendix A.
# atto to nano: the small models of ConvNeXt V2 (Woo et al., 2023, appendix A); timm and mmpretrain
# train them with V1 blocks, too.
# huge: ConvNeXt V2 only.
# xxlarge: the image model of the largest CLIP of open_clip, trained with another epsilon.
VARIANTS: dict[str, Variant] = {
    'atto': Variant((2, 2, 6, 2), (40, 80, 160, 320)),
    'femto': Variant((2, 2, 6, 2), (48, 96, 192, 384)),
    'pico': Variant((2, 2, 6, 2), (64, 128, 256, 512)),
    'nano': Variant((2, 2, 8, 2), (80, 160, 320, 640)),
    'tiny': Variant((3, 3, 9, 3), (96, 192, 384, 768)),
    'small': Variant((3, 3, 27, 3), (96, 192, 384, 768)),
    'base': Variant((3, 3, 27, 3), (128, 256, 512, 1024)),
    'large': Variant((3, 3, 27, 3), (192, 384, 768, 1536)),
    'xlarge': Variant((3, 3, 27, 3), (256, 512, 1024, 2048)),
    'huge': Variant((3, 3, 27, 3), (352, 704, 1408, 2816)),
    'xxlarge': Variant((3, 4, 30, 3), (384, 768, 1536, 3072), norm_eps=1e-5),
}
# Far beyond any network in use: larger values are mistakes, and would exhaust the memory.
MAX_STAGES, MAX_DEPTH, MAX_DIM = 16, 1_000, 20_000
# The authors' default.
DEFAULT_VARIANT = 'tiny'


def resolve_variant(
    arch: str | Mapping | None = None,
    depths: Sequence[int] | None = None,
    dims: Sequence[int] | None = None,
) -> Variant:
    """Return the :class:`Variant` that the arguments describe.

    Args:
        arch: A name of :data:`VARIANTS`, or a dict with exactly the keys ``depths`` and ``dims``.
        depths: The authors' keyword, instead of ``arch``; defaults to those of tiny.
        dims: The authors' keyword, instead of ``arch``; defaults to those of tiny.

    Raises:
        TypeError: ``arch`` is neither a name nor a dict, or the sizes are not sequences of ints.
        ValueError: The name is unknown, both ways are mixed, keys are missing or unknown, sizes
            are below one or absurdly large, or ``depths`` and ``dims`` differ in length.
    """
    if arch is not None and (depths is not None or dims is not None):
        raise ValueError(
            f'expected either arch or depths and dims, got arch={arch!r} together with '
            f'depths={depths!r}, dims={dims!r}; leave one of the two out'
        )
    if isinstance(arch, str):
        return _named_variant(arch)
    if isinstance(arch, Mapping):
        if set(arch) != {'depths', 'dims'}:
            raise ValueError(
                "expected an arch dict with the keys 'depths' and 'dims', got "
                f'{sorted(map(str, arch))}; for example arch=dict(depths=(3, 3, 9, 3), '
                'dims=(96, 192, 384, 768))'
            )
        depths, dims = arch['depths'], arch['dims']
    elif arch is not None:
        raise TypeError(
            f'expected arch to be a name or a dict with depths and dims, got {arch!r} of type '
            f'{type(arch).__name__}; names are {", ".join(VARIANTS)}'
        )
    default = VARIANTS[DEFAULT_VARIANT]
    variant = Variant(
        depths=_sizes('depths', default.depths if depths is None else depths, MAX_DEPTH),
        dims=_sizes('dims', default.dims if dims is None else dims, MAX_DIM),
    )
    if len(variant.depths) != len(variant.dims):
        raise ValueError(
            f'expected depths and dims of the same length, one entry per stage, got '
            f'{len(variant.depths)} depths {variant.depths} and {len(variant.dims)} dims '
            f'{variant.dims}'
        )
    sizes = (variant.depths, variant.dims)
    named = (known for known in VARIANTS.values() if (known.depths, known.dims) == sizes)
    return next(named, variant)  # with its epsilon


def _named_variant(name: str) -> Variant:
    if name not in VARIANTS:
        close = difflib.get_close_matches(name.removeprefix('convnext_'), VARIANTS, n=1)
        hint = f'; did you mean {close[0]!r}?' if close else '; or give a dict of depths and dims'
        raise ValueError(f'expected arch to be one of {", ".join(VARIANTS)}, got {name!r}{hint}')
    return VARIANTS[name]


def _sizes(name: str, values: Sequence[int], maximum: int) -> tuple[int, ...]:
    """Return a non-empty tuple of positive ints; numpy integers become Python's."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise TypeError(
            f'expected {name} to be a list or tuple of integers, one per stage, got {values!r} '
            f'of type {type(values).__name__}'
        )
    if len(values) > MAX_STAGES:
        raise ValueError(f'expected {name} of at most {MAX_STAGES} stages, got {len(values)}')
    for value in values:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f'expected {name} to hold integers only, got {value!r} in {values!r}')
    if not values or min(values) < 1:
        raise ValueError(
            f'expected {name} to hold at least one integer and none below 1, got {values!r}'
        )
    if max(values) > maximum:
        raise ValueError(f'expected {name} of at most {maximum}, got {values!r}')
    return tuple(int(value) for value in values)
