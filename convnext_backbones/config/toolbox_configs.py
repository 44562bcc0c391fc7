"""Configs that the installed mmdet and mmseg ship, by names such as ``mmdet::dino/...``."""

from __future__ import annotations

import difflib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from ..io.mmengine_patches import mmseg_bases_found

SCOPES = ('mmdet', 'mmseg')


def read_toolbox_config(name: str) -> Config:
    """Read a shipped config; its custom modules are not imported.

    Args:
        name: ``mmdet::`` or ``mmseg::`` and the path below their folder of configs, with or without
            ``.py``.

    Raises:
        ValueError: There is none of that name.
    """
    scope, _, path = name.partition('::')
    if scope not in SCOPES:
        raise ValueError(f'expected a config of mmdet:: or mmseg::, got {name!r}')
    file = configs_folder(scope) / f'{path.removesuffix(".py")}.py'
    if '..' in file.parts or not file.is_file():
        close = close_toolbox_names(name)
        hint = f'did you mean {" or ".join(map(repr, close))}?' if close else 'check its spelling'
        raise ValueError(f'expected a config that {scope} ships, got {name!r}; {hint}')
    with mmseg_bases_found():
        return Config.fromfile(file, import_custom_modules=False)


def configs_folder(scope: str) -> Path:
    """Return where an installed mmdet or mmseg keeps the configs that it ships.

    Raises:
        ValueError: It is not installed.
    """
    spec = find_spec(scope)
    if spec is None or not spec.origin:
        raise ValueError(f'expected {scope} to be installed, to read a config of it')
    return Path(spec.origin).parent / '.mim' / 'configs'


@cache
def toolbox_names() -> tuple[str, ...]:
    """Return the names of all configs that can be read."""
    names = []
    for scope in SCOPES:
        if find_spec(scope) is not None:
            folder = configs_folder(scope)
            paths = sorted(path.relative_to(folder) for path in folder.rglob('*.py'))
            names += [
                f'{scope}::{path.with_suffix("").as_posix()}'
                for path in paths
                if '_base_' not in path.parts
            ]
    return tuple(names)


def close_toolbox_names(name: str) -> list[str]:
    """Return at most two names of configs that are like a name, or contain it."""
    names = {known.rpartition('/')[2]: known for known in toolbox_names()}
    wanted = name.rpartition('/')[2].removesuffix('.py')
    close = difflib.get_close_matches(wanted, names, n=2)
    close = close or [known for known in names if wanted and known.startswith(wanted)][:2]
    return [names[known] for known in close]
