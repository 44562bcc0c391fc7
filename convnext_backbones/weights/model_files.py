"""Whole models in the layout of the Hugging Face hub: a config and weights, in one place."""

from __future__ import annotations

import os
from pathlib import Path

from ..io.hub import FILES, HubPlace, find_or_fetch_from_hub, split_hub_name, split_hub_url
from .zoo import usual_file, weights_file

CONFIG = 'config.json'


def model_files(source: str | os.PathLike) -> tuple[Path, Path]:
    """Return config and weights of a model that ``tools/publish.py --layout huggingface`` wrote.

    Args:
        source: The folder, or the name or page of a repository of the hub. A folder on this machine
            comes first.

    Raises:
        FileNotFoundError: There is no such folder or repository, or it lacks one of the files.
        ValueError: The repository is gated, or a download failed.
    """
    source = os.fspath(source)
    folder = Path(source).expanduser()
    if os.path.isdir(folder):
        weights, config = usual_file(folder), folder / CONFIG
        if weights is None or not config.is_file():
            missing = FILES[0] if weights is None else CONFIG
            raise FileNotFoundError(
                f'expected a folder as tools/publish.py --layout huggingface writes it, found no '
                f'{missing} in {source!r}; give CONFIG and CHECKPOINT of other models'
            )
        return config, weights
    place = split_hub_url(source) or split_hub_name(source)
    if place is None or place.file or os.path.exists(folder):
        raise FileNotFoundError(
            f'expected CONFIG and CHECKPOINT, or a folder or a repository of the hub with both, '
            f'got {source!r} alone'
        )
    weights = weights_file(f'hf-hub:{place.repo}')
    return find_or_fetch_from_hub(HubPlace(place.repo, CONFIG)), weights
