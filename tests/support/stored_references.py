"""What compiled mmcv computed, in the small files of ``references``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from support.operator_cases import Case

FOLDER = Path(__file__).parent / 'references'
INPUTS = 'inputs'
SEPARATOR = ' | '  # between the name of a group of tensors and the name of one


@cache
def stored(name: str) -> dict[str, dict[str, Tensor]]:
    """Tensors of a file by group and name."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(FOLDER / f'{name}.safetensors').items():
        group, _, item = key.partition(SEPARATOR)
        groups.setdefault(group, {})[item] = tensor
    return groups


def save(name: str, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write a file that :func:`stored` reads."""
    FOLDER.mkdir(exist_ok=True)
    tensors = {
        f'{group}{SEPARATOR}{item}': tensor.detach().contiguous()
        for group, items in groups.items()
        for item, tensor in items.items()
    }
    save_file(tensors, FOLDER / f'{name}.safetensors')
    stored.cache_clear()


def inputs(case: Case) -> dict[str, Tensor]:
    """Copies of the inputs of a case."""
    return {name: tensor.clone() for name, tensor in stored(INPUTS)[case.scene].items()}


def outputs(case: Case) -> dict[str, Tensor]:
    """The results of compiled mmcv for a case."""
    return stored(case.operator)[str(case)]
