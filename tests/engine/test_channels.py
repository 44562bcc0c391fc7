"""Images of any number of channels, but of the number that the config says."""

import numpy as np
import pytest

from convnext_backbones.engine.channels import CheckChannels, any_channels_preprocessor
from convnext_backbones.io.images import UnreadableFileError


def test_a_mean_without_a_std_is_refused():
    with pytest.raises(ValueError, match='a mean and a std for each channel, got 4 and 3'):
        any_channels_preprocessor([0.0] * 4, [1.0] * 3)


@pytest.mark.parametrize('shape', [(4, 5, 4), (4, 5, 1), (4, 5)])
def test_images_of_another_number_of_channels_are_refused(shape):
    check = CheckChannels(shape[2] if len(shape) > 2 else 1)
    sample = dict(img=np.zeros(shape), img_path='a.tif')
    assert check(sample) is sample
    with pytest.raises(UnreadableFileError, match="expected 3 channels, .* in 'a.tif', got"):
        CheckChannels(3)(sample)
