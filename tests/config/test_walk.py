"""One walker finds what configs nest, and functions over it what tools look for."""

import pytest
from mmengine.config import Config, ConfigDict

from convnext_backbones.config.walk import entry_at, list_heads, pipelines, unwrap, walk


def test_every_dict_has_its_path_and_outer_ones_come_first():
    node = dict(a=dict(b=[dict(c=1), (dict(),)]), d='x')
    assert [path for path, _ in walk(node)] == ['', 'a', 'a.b.0', 'a.b.1.0']
    assert [path for path, _ in walk(node, 'model')][:2] == ['model', 'model.a']
    assert list(walk('text')) == list(walk(None)) == []
    assert [path for path, _ in walk([dict()])] == ['0']


def test_what_the_walk_finds_may_be_changed():
    cfg = Config(dict(model=dict(heads=[dict(type='SyncBN'), dict(type='GN')])))
    for _, part in walk(cfg.model):
        if part.get('type') == 'SyncBN':
            part['type'] = 'BN'
    assert [head.type for head in cfg.model.heads] == ['BN', 'GN']


def test_entries_are_found_or_none():
    cfg = Config(dict(a=dict(b=3)))
    assert (entry_at(cfg, 'a.b'), entry_at(cfg, 'a.c'), entry_at(cfg, 'a.b.c')) == (3, None, None)
    assert entry_at(dict(a=[]), 'a.b') is None


def test_heads_that_know_no_classes_of_the_data_are_passed_over():
    model = ConfigDict(
        rpn_head=dict(num_classes=1, inner=dict(num_classes=1)),
        roi_head=dict(bbox_head=[dict(num_classes=2), dict(num_classes=2)]),
        decode_head=dict(num_classes=2),
    )
    assert [head.num_classes for head in list_heads(model)] == [2, 2, 2]


def dataset(name: str, **entries) -> ConfigDict:
    return ConfigDict(name=name, pipeline=[dict(type=name)], **entries)


def test_wrappers_are_looked_through_and_have_pipelines_of_their_own():
    inner = [dataset('a'), ConfigDict(type='RepeatDataset', dataset=dataset('b'))]
    outer = dataset('mosaic', dataset=ConfigDict(datasets=inner))
    found = [(place, one.name) for place, one in unwrap(outer, 'train.dataset')]
    assert found == [
        ('train.dataset.dataset.datasets.0', 'a'),
        ('train.dataset.dataset.datasets.1.dataset', 'b'),
    ]
    assert [pipeline[0].type for pipeline in pipelines(outer)] == ['mosaic', 'a', 'b']
    assert list(unwrap(outer.dataset.datasets[0])) == [('dataset', inner[0])]


@pytest.mark.parametrize('what', [None, 'CocoDataset', ['a'], 3])
def test_what_is_no_dataset_is_left_to_mmengine(what):
    assert list(unwrap(what)) == list(pipelines(what)) == []
    assert list(unwrap(ConfigDict(dataset=what))) == []
