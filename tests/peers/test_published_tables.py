"""The table of published weights against those of open_clip and Keras."""

import os

os.environ.setdefault('KERAS_BACKEND', 'torch')

import pytest
from keras.src.applications.convnext import BASE_WEIGHTS_PATH, WEIGHTS_HASHES
from open_clip import get_model_config
from open_clip.pretrained import _PRETRAINED

from convnext_backbones import PUBLISHED

LAION = {
    facts['hf_hub'].rstrip('/'): (model, facts)
    for model, tags in _PRETRAINED.items()
    for facts in tags.values()
    if 'convnext' in model
}


def of(origin: str) -> dict:
    return {name: one for name, one in PUBLISHED.items() if one.origin == origin}


def test_open_clip():
    ours = of('open_clip')
    assert set(ours) == set(LAION)
    for name, (model, facts) in LAION.items():
        trunk = get_model_config(model)['vision_cfg']
        assert trunk['timm_model_name'] == f'convnext_{ours[name].arch}'
        assert trunk['image_size'] == ours[name].resolution
        for numbers, fractions in (
            (ours[name].mean, facts['mean']),
            (ours[name].std, facts['std']),
        ):
            assert numbers == pytest.approx([255 * one for one in fractions], abs=1e-6)


def test_keras():
    assert {(one.url, one.sha256) for one in of('keras').values()} == {
        (f'{BASE_WEIGHTS_PATH}{name}{suffix}.h5', digest)
        for name, digests in WEIGHTS_HASHES.items()
        for suffix, digest in zip(('', '_notop'), digests, strict=True)
    }
