"""Names and shapes of the tensors in the authors' fine-tuned files.

The text files are data, written from the published architectures and independent of our models.
In a name, ``{a,b}`` stands for alternatives and ``{0..4}`` for the numbers 0 to 3; a shape is a
list of sizes, none for a scalar. C0 to C3 are the channels of the stages, D0 to D3 their blocks.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Manifest:
    """One file of the authors' model zoo.

    Attributes:
        shapes: Name -> shape of every tensor.
        config: Stem of our config for the model.
        millions: Number of parameters that the paper gives, in millions.
    """

    shapes: dict[str, tuple[int, ...]]
    config: str
    millions: int


def _read() -> dict[str, Manifest]:
    manifests = {}
    for line in _lines('models'):
        name, parts, depths, dims, config, millions = map(str.strip, line.split('|'))
        sizes = {f'D{i}': depth for i, depth in enumerate(depths.split())}
        sizes |= {f'C{i}': dim for i, dim in enumerate(dims.split())}
        shapes = {}
        for row in itertools.chain(*map(_lines, parts.split())):
            for symbol, size in sizes.items():
                row = row.replace(symbol, size)
            template, *shape = row.split()
            for expanded in _expand(template):
                assert expanded not in shapes, expanded
                shapes[expanded] = tuple(map(_size, shape))
        manifests[name] = Manifest(shapes, config, int(millions))
    return manifests


def _lines(name: str) -> Iterator[str]:
    for line in (FOLDER / f'{name}.txt').read_text().splitlines():
        if not line.startswith('#'):
            yield line


def _expand(template: str) -> Iterator[str]:
    braces = re.search(r'\{(.*?)\}', template)
    if braces is None:
        yield template
        return
    low, dots, high = braces[1].partition('..')
    for choice in range(int(low), int(high)) if dots else braces[1].split(','):
        yield from _expand(f'{template[: braces.start()]}{choice}{template[braces.end() :]}')


def _size(text: str) -> int:
    """The value of a sum of products, such as ``768+4*512``."""
    total = 0
    for term in text.split('+'):
        product = 1
        for factor in term.split('*'):
            product *= int(factor)
        total += product
    return total


MANIFESTS = _read()
