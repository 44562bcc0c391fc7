"""Differences are found."""

import numpy as np
import pytest
import torch
from torch import nn

from convnext_backbones.exporting.parity import Parity, check, measure, random_images


class Graph(nn.Module):
    def forward(self, images):
        logits = images - 100
        return logits, logits.argmax(1)


def exported(change):
    def run(images):
        logits = images - 100 + change
        return dict(logits=logits, labels=logits.argmax(1))

    return run


def test_difference_and_labels():
    images = random_images(3)
    assert len({image.shape for image in images}) == 3
    assert measure(Graph(), exported(0), images) == Parity(0, 0)
    shift = np.zeros((1, 3, 1, 1), np.float32)
    shift[0, 0] = 15.5  # a tenth of the largest value
    found = measure(Graph(), exported(shift), images)
    assert found.difference == pytest.approx(0.1)
    expected = np.mean([(i.argmax(1) != (i + shift).argmax(1)).mean() for i in images])
    assert found.labels == pytest.approx(expected, abs=0.01)
    assert '1.0e-01 of the largest value' in str(found) and 'of the labels differ' in str(found)


def test_only_close_models_pass():
    check(Parity(1e-5, 0))
    for difference in (2e-4, float('nan'), float('inf')):
        with pytest.raises(ValueError, match='at most 1e-04 is expected'):
            check(Parity(difference, None))


def test_nan_is_a_difference():
    found = measure(Graph(), exported(np.float32('nan')), random_images(1)[:1])
    assert not found.difference <= 1


def test_maps_without_labels():
    class Maps(nn.Module):
        def forward(self, images):
            return (torch.zeros_like(images),)

    found = measure(Maps(), lambda images: dict(map0=images * 0), random_images(2))
    assert found == Parity(0, None) and 'labels' not in str(found)
