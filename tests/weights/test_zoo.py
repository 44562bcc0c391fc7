"""Published weights are found by name."""

import pytest
from support.manifests import MANIFESTS
from support.weights import holds, trunk

from convnext_backbones import PUBLISHED, load_weights


def test_the_table_of_published_files():
    assert len(PUBLISHED) == 24 + 13
    for name, weights in PUBLISHED.items():
        assert weights.url.startswith('https://dl.fbaipublicfiles.com/convnext/')
        assert weights.url.endswith(f'/{name}.pth')
        assert weights.size is None and weights.sha256 is None
    assert set(MANIFESTS) < set(PUBLISHED)
    assert '/coco/' in PUBLISHED['mask_rcnn_convnext_tiny_1k_3x'].url


def test_a_published_name_is_found_in_the_folder(published, backbone):
    load_weights(backbone, 'convnext_tiny_1k_224')
    assert holds(backbone, trunk(published))


def test_a_published_name_that_is_not_there(published, backbone):
    with pytest.raises(FileNotFoundError, match=r"'convnext_base_22k_224.pth'.*https://dl.fb"):
        load_weights(backbone, 'convnext_base_22k_224')


@pytest.mark.parametrize('name', ['convnext_tiny_224', 'convnext_tiny_1k_224.pth'])
def test_a_name_that_is_none(name, backbone):
    with pytest.raises(FileNotFoundError, match="did you mean 'convnext_tiny_1k_224'"):
        load_weights(backbone, name)
