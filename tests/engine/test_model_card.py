"""A model card is what the hub reads, says what is known, and takes names as text."""

import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

from convnext_backbones import PUBLISHED
from convnext_backbones.engine.data_facts import DataFacts
from convnext_backbones.engine.model_card import (
    CardFacts,
    Measured,
    ModelFacts,
    escaped,
    model_card,
)
from convnext_backbones.engine.training_facts import StartingWeights

MODEL = ModelFacts(
    architecture='FasterRCNN',
    toolbox='mmdet',
    masks=False,
    backbone='ConvNeXt V2',
    options=dict(arch='atto', use_grn=True),
    tags=['convnext', 'convnextv2'],
    parameters=1_234_567,
    normalization='mean 1, 2, 3',
)
FACTS = CardFacts(
    name='mine',
    repo='',
    checkpoint='epoch_1.pth',
    sha256='0' * 64,
    model=MODEL,
    data=DataFacts('CocoDataset', 'Coco', ('a', 'b'), {}),
    dataset='',
    training={'seed': '1'},
    recorded=True,
    start=StartingWeights(),
    measured=Measured({'coco/bbox_mAP': 0.5}, 'in a test'),
    licence='',
    versions={},
)
ODD = '<script>alert(1)</script>\n---\nlicense: mit\n# `a` | *b* [c](d) ![e](f)'


def parsed(facts: CardFacts) -> ModelCard:
    return ModelCard(model_card(facts))


def started(**facts) -> StartingWeights:
    return StartingWeights(**(dict(name='a_file') | facts))


def test_the_metadata_of_a_detector_of_boxes():
    card = parsed(FACTS)
    assert card.data.pipeline_tag == 'object-detection'
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.dataset_type) == ('Coco', 'CocoDataset')
    assert (result.task_type, result.metric_value) == ('object-detection', 0.5)
    assert 'finds the boxes of objects of 2 classes' in card.text


def test_names_are_text():
    """Names from files become neither tags, nor markup, nor metadata."""
    facts = replace(
        FACTS,
        name=ODD,
        checkpoint=ODD,
        dataset=ODD,
        data=replace(FACTS.data, classes=(ODD, 'b')),
        training={ODD: ODD},
        start=started(name=ODD, licence=ODD, pretraining=ODD),
        measured=Measured({ODD: 0.5}, ODD),
        licence=ODD,
    )
    content = model_card(facts)
    card = ModelCard(content)
    assert '<script' not in card.text
    assert not re.search(r'(?<!\\)(?:\\\\)*\[c\]', card.text)
    assert re.findall(r'^#.*', card.text, re.MULTILINE)[1:] == [
        f'## {title}'
        for title in (
            'How to use it',
            'Intended use and limits',
            'Metrics',
            'Data',
            'Training',
            'Licence',
            'Files',
        )
    ]
    rows = [line for line in card.text.splitlines() if line.startswith('|')]
    assert all(len(re.findall(r'(?<!\\)\|', row)) == 3 for row in rows)
    assert card.data.model_name == ODD and card.data.eval_results[0].metric_type == ODD
    assert card.data.license not in ('mit', ODD)
    assert 'python tools/predict.py FOLDER IMAGES' in card.text
    metadata = yaml.safe_load(content.split('\n---\n')[0])
    assert metadata['library_name'] == 'convnext_backbones'


@pytest.mark.parametrize(
    ('text', 'wanted'),
    [
        ('weight_decay=0.05', 'weight_decay=0.05'),
        ('_a_', r'\_a\_'),
        ('a*b`c', r'a\*b\`c'),
        ('a\n\n b', 'a b'),
        ('<b>&', '&lt;b&gt;&amp;'),
        (r'\|', r'\\\|'),
    ],
)
def test_markup_is_escaped_where_it_is_some(text, wanted):
    assert escaped(text) == wanted


@pytest.mark.parametrize(
    ('start', 'own', 'metadata', 'sentence'),
    [
        (StartingWeights(), '', {}, 'started from random numbers'),
        (StartingWeights(), 'MIT', dict(license='mit'), 'The publisher states MIT'),
        (None, '', dict(license='unknown'), 'What the training started from is not known'),
        (started(), '', dict(license='unknown'), 'The licence of these weights is not known'),
        (started(licence='MIT'), '', dict(license='mit'), 'whose licence is MIT.'),
        (
            started(licence='Apache-2.0 (authors: MIT)'),
            '',
            dict(license='apache-2.0'),
            r'whose licence is Apache-2.0 (authors: MIT).',
        ),
        (
            started(licence='DINOv3 License, gated', repo='facebook/a'),
            '',
            dict(license='other', license_name='dinov3-license', base_model='facebook/a'),
            'whose licence is DINOv3 License, gated. This model is under the same licence',
        ),
        (
            started(licence='CC-BY-NC-4.0'),
            'cc-by-nc-4.0',
            dict(license='cc-by-nc-4.0'),
            'The publisher states cc-by-nc-4.0 for this model.',
        ),
    ],
)
def test_the_licence_of_the_starting_weights(start, own, metadata, sentence):
    card = parsed(replace(FACTS, start=start, licence=own))
    keys = ('license', 'license_name', 'base_model')
    found = {key: getattr(card.data, key, None) for key in keys}
    assert {key: value for key, value in found.items() if value} == metadata
    assert sentence in card.text.partition('## Licence')[2]


def test_each_published_licence_has_an_entry():
    for published in PUBLISHED.values():
        start = started(licence=published.facts()['licence'])
        card = parsed(replace(FACTS, start=start))
        assert re.fullmatch(r'mit|apache-2\.0|cc-by-nc-4\.0|other', card.data.license)


def test_nothing_measured_is_no_metric():
    card = parsed(replace(FACTS, measured=Measured()))
    assert card.data.eval_results is None and '## Metrics\n\nNot measured.\n' in card.text


def test_another_backbone_has_no_code_of_ours():
    card = parsed(replace(FACTS, model=replace(MODEL, options=None)))
    assert 'load_weights' not in card.text and 'build_model' in card.text


def test_a_repository_of_data_is_linked():
    card = parsed(replace(FACTS, dataset='me/data', repo='me/mine'))
    assert card.data.datasets == ['me/data']
    assert card.data.eval_results[0].dataset_type == 'me/data'
    assert 'python tools/predict.py me/mine IMAGES' in card.text
