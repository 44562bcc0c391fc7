"""The report accounts for every tensor."""

import torch
from support.weights import broken

from convnext_backbones import ConvNeXt, load_weights


def test_the_report_counts_per_stage(classifier, backbone, save):
    report = load_weights(backbone, save(classifier))
    assert report.per_stage() == {
        'stem': (4, 0),
        'stage 0': (9, 0),
        'stage 1': (13, 0),
        'stage 2': (22, 0),
        'stage 3': (13, 0),
        'output norms': (0, 8),
    }
    text = str(report)
    assert '61 loaded, 8 missing, 4 dropped' in text and 'output norms 0 of 8' in text


def test_every_tensor_is_accounted_for(classifier, miniature, save):
    state = broken('missing', broken('nan', broken('unexpected', classifier)))
    state['norm2.weight'] = torch.ones(3)
    backbone = ConvNeXt(miniature, in_chans=4)
    report = load_weights(backbone, save(state), strict=False)
    fates = report.loaded + report.mismatched + report.unexpected + report.dropped
    assert len(fates) == len(set(fates)) == len(state)
    ours = report.loaded + report.mismatched + report.missing
    assert sorted(ours) == sorted(backbone.state_dict())
