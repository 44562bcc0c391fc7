"""The data preprocessor of detectors for any number of channels."""

import pytest

from convnext_backbones.engine.channels import any_channels_preprocessor


def test_a_mean_without_a_std_is_refused():
    with pytest.raises(ValueError, match='a mean and a std for each channel, got 4 and 3'):
        any_channels_preprocessor([0.0] * 4, [1.0] * 3)
