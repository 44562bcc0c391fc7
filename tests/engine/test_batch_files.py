"""The files of a batch, found in whatever container holds its samples."""

import torch
from mmengine.structures import BaseDataElement

from convnext_backbones.engine.batch_files import file_names
from convnext_backbones.io.wording import first_names


def sample(i: int) -> BaseDataElement:
    return BaseDataElement(metainfo=dict(img_path=f'{i}.jpg'))


def test_files_are_found_in_whatever_holds_the_samples():
    samples = [sample(i) for i in (0, 1, 0)]
    assert file_names(dict(inputs=[torch.zeros(3)], data_samples=samples)) == ['0.jpg', '1.jpg']
    branches = dict(data_samples=dict(labeled=samples[:1], others=[samples[1:2]]))
    assert file_names(branches) == ['0.jpg', '1.jpg']
    assert file_names(dict(data_samples=[BaseDataElement()])) == []


def test_long_lists_are_cut():
    assert first_names(['a', 'b'], 2) == 'a, b'
    assert first_names(['a', 'b', 'c', 'd'], 2) == 'a, b and 2 more'
