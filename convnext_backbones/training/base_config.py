"""What a training changes in the configs that its config builds on."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..io.mmengine_patches import mmseg_bases_found
from ..reports.config_entries import config_diff

LIBRARY = '::'  # in the name of a base that a library ships, such as mmdet::_base_/default.py


def describe_base(cfg: Config) -> dict[str, Any]:
    """Return what a config builds on, and what it changes there, ready for JSON.

    The base configs are executed, as they were when the config was loaded.

    Args:
        cfg: The config as it runs; its ``filename`` names the file it was loaded from.

    Returns:
        ``files``, the entries of ``_base_``, and ``diff``, see :func:`.config_diff`; or ``missing``
        with the reason why there is no diff.
    """
    try:
        files = _bases(cfg.filename)
    except (OSError, SyntaxError, ValueError) as error:
        return dict(missing=f'the config file could not be read again ({error})')
    if not files:
        return dict(missing='the config file has no _base_')
    folder = Path(cfg.filename).resolve().parent
    paths = [file if LIBRARY in file else os.path.join(folder, file) for file in files]
    try:
        with mmseg_bases_found():
            base = Config.fromstring(f'_base_ = {paths!r}\n', '.py')
    except Exception as error:  # whatever a config raises; the training itself has loaded it
        reason = f'{type(error).__name__}: {error}'
        return dict(files=files, missing=f'the base could not be loaded by itself ({reason})')
    return dict(files=files, diff=config_diff(base.to_dict(), cfg.to_dict()))


def _bases(filename: str | None) -> list[str]:
    """Return the entries of ``_base_`` in a config file.

    Raises:
        OSError: There is no file.
        SyntaxError: It is not Python.
        ValueError: ``_base_`` is computed.
    """
    if not filename or not filename.endswith('.py'):
        return []
    for line in ast.parse(Path(filename).read_text(encoding='utf-8')).body:
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == '_base_':
            files = ast.literal_eval(line.value)
            return [files] if isinstance(files, str) else [*files]
    return []
