"""The table of published weights against timm's own: all its ConvNeXts, tag by tag."""

import pytest
import timm
import torch
from timm.models._registry import get_deprecated_models
from timm.models.convnext import default_cfgs

from convnext_backbones import PUBLISHED, ConvNeXtClassifier
from convnext_backbones.weights.published_timm import DEPRECATED

THEIRS = {
    f'timm/{model}.{tag}': cfg
    for model, versions in default_cfgs.items()
    for tag, cfg in versions.cfgs.items()
}
OURS = {name: one for name, one in PUBLISHED.items() if one.origin == 'timm'}
# What a model of one kind differs in from the others, apart from its data.
KINDS = {
    (name.partition('.')[0], one.classes): name for name, one in OURS.items() if not one.obstacle
}


def test_the_table_has_all_tags():
    assert set(OURS) == set(THEIRS)
    assert len(THEIRS) == 103


@pytest.mark.parametrize('name', THEIRS)
def test_the_facts_are_those_of_timm(name):
    ours, theirs = OURS[name], THEIRS[name]
    assert (ours.repo is None) == (not theirs.has_weights) == ('untrained' in name)
    if ours.repo is not None:
        assert f'{theirs.hf_hub_id}{name.removeprefix("timm/")}' == ours.repo
    assert ours.classes == theirs.num_classes
    assert theirs.input_size == (3, ours.resolution, ours.resolution)
    for numbers, fractions in ((ours.mean, theirs.mean), (ours.std, theirs.std)):
        assert numbers == pytest.approx([255 * one for one in fractions], abs=1e-6)
    licence = ours.licence.partition(' (')[0].lower().replace(' ', '-')
    assert licence.replace('research-license', '') == theirs.license.replace('research-license', '')


def test_deprecated_names():
    theirs = get_deprecated_models('convnext')
    assert theirs == DEPRECATED
    assert all(f'timm/{new}' in OURS for new in DEPRECATED.values())


@pytest.mark.parametrize('name', KINDS.values())
def test_the_options_build_timms_network(name):
    """The same number of parameters as timm's model, with its head."""
    with torch.device('meta'):
        theirs = timm.create_model(name.removeprefix('timm/'), pretrained=False)
        ours = ConvNeXtClassifier(**OURS[name].classifier_options())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
