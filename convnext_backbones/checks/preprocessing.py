"""Compare the mean and std of a config with those that its weights were trained with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from ..config.channels import SETTING
from ..config.walk import walk
from ..weights.loading import PretrainedConvNeXt
from ..weights.published import find_published, preprocessing
from .findings import WARNING, Finding

KEY = 'data_preprocessor'
# Of 255: configs round their numbers, and other statistics differ by more.
TOLERANCE = 0.05


def check_preprocessing(cfg: Config) -> Iterator[Finding]:
    """Compare every ``data_preprocessor`` with the published weights that the config names.

    What normalizes images of another number of channels is left alone: its numbers are the user's.
    So are those of ``image_channels``, which are in the units of the files.
    """
    if cfg.get(SETTING) is not None:
        return
    names = dict.fromkeys(_published_names(cfg))
    parts = [*walk(cfg.model, 'model')]
    if KEY not in cfg.model:  # the Runner then takes the one beside the model
        parts += walk(cfg.get(KEY), KEY)
    if not any(_is_preprocessor(place) for place, _ in parts):  # mmengine then normalizes nothing
        parts.append((f'model.{KEY}', {}))
    for place, part in parts:
        # One that holds others, of the branches of a semi-supervised model, normalizes nothing.
        if not _is_preprocessor(place) or isinstance(part.get(KEY), Mapping):
            continue
        for name in names:
            if wrong := _differences(part, preprocessing(name)):
                lines = ' '.join(f'{place}.{key}={_plain(value)}' for key, value in wrong.items())
                what = (
                    f'{", ".join(wrong)} other than those that {name!r} was trained with: '
                    'the backbone would see other colors than it knows'
                )
                how = 'write' if part else 'give the model one of mmdet or mmseg with'
                yield Finding(WARNING, what, place, f'{how} {lines}')


def _is_preprocessor(place: str) -> bool:
    return place.rpartition('.')[2] == KEY


def _published_names(cfg: Config) -> Iterator[str]:
    """Return the names of published weights that backbones, or the whole model, start from."""
    sources = [cfg.get('load_from')]
    for _, part in walk(cfg.model):
        inits = part.get('init_cfg') or ()
        for init in [inits] if isinstance(inits, Mapping) else inits:
            if init.get('type') in (PretrainedConvNeXt, PretrainedConvNeXt.__name__):
                sources.append(init.get('checkpoint'))
    return (source for source in sources if isinstance(source, str) and find_published(source))


def _differences(part: Mapping, expected: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of ``expected`` that ``part`` has another value for."""
    mean = part.get('mean')
    if mean is not None and len(mean) != len(expected['mean']):
        return {}
    wrong = {
        key: expected[key]
        for key in ('mean', 'std')
        if not _close(part.get(key) or (), expected[key])
    }
    if not part.get('bgr_to_rgb'):
        wrong['bgr_to_rgb'] = expected['bgr_to_rgb']
    return wrong


def _close(values: Any, expected: list[float]) -> bool:
    return len(values) == len(expected) and all(
        abs(value - wanted) <= TOLERANCE for value, wanted in zip(values, expected, strict=True)
    )


def _plain(value: Any) -> str:
    """Return a value as a flag of ``--cfg-options`` has it."""
    if isinstance(value, list):
        return f'[{",".join(f"{number:.7g}" for number in value)}]'
    return str(value)
