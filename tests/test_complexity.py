"""The paper's cost columns come out of tools/complexity.py, and any config can be counted."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from convnext_backbones.benchmark import complexity
from convnext_backbones.benchmark.complexity import (
    CONVENTION,
    Cost,
    build_classifier,
    count_parts,
    measure,
)
from convnext_backbones.benchmark.paper import CLASSIFIERS, COMPARATORS, SWIN_L_NOTE
from convnext_backbones.engine.build import build_on_meta
from convnext_backbones.experiments import EXPERIMENTS
from tools import complexity as tool

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text()

SAMPLES = [ROOT / f'configs/sample/{name}_convnext_sample.py' for name in ('mask_rcnn', 'upernet')]
# G multiply-adds and M parameters of the comparators as measured when this was written. Table 3 of
# the paper states no parameters.
MEASURED = {
    'mask_rcnn_swin_t': (266.55, 47.79),
    'cascade_mask_rcnn_r50': (737.57, 82.23),
    'cascade_mask_rcnn_x101_32x4d': (816.77, 100.85),
    'cascade_mask_rcnn_x101_64x4d': (969.63, 140.13),
    'cascade_mask_rcnn_swin_t': (744.80, 85.63),
    'cascade_mask_rcnn_swin_s': (836.85, 106.95),
    'cascade_mask_rcnn_swin_b': (981.29, 144.98),
    'cascade_mask_rcnn_swin_l_in22k': (1391.56, 253.48),
    'upernet_swin_t': (944.39, 59.94),
    'upernet_swin_s': (1037.42, 81.26),
    'upernet_swin_b': (1187.35, 121.28),
    'upernet_swin_b_in22k': (1839.18, 121.28),
    'upernet_swin_l_in22k': (2482.34, 233.76),
}
CLASSIFIER_PARAMS = {
    'tiny': 28_589_128,
    'small': 50_223_688,
    'base': 88_591_464,
    'large': 197_767_336,
    'xlarge': 350_196_968,
}


@dataclass
class Measured:
    """A cost, and what the paper's figures have besides or leave out."""

    cost: Cost
    elementwise: int
    attention: int


@functools.cache
def measured(name: str) -> Measured:
    """A model of table 3 or 4, counted once for all tests."""
    counts = dict(elementwise=0, attention=0)

    def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            counts['elementwise'] += 2 * output.numel()
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            counts['elementwise'] += output.numel() if module.bias is not None else 0
        elif isinstance(module, nn.ReLU):
            counts['elementwise'] += output.numel()
        elif isinstance(module, (nn.MaxPool2d, nn.AdaptiveAvgPool2d)):
            counts['elementwise'] += args[0].numel()
        elif type(module).__name__ == 'WindowMSA':
            windows, tokens, channels = args[0].shape
            counts['attention'] += 2 * windows * tokens**2 * channels

    model = tool.build(name)
    handle = nn.modules.module.register_module_forward_hook(hook)
    cost = measure(name, model)
    handle.remove()
    return Measured(cost, **counts)


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_published_experiment_costs_what_the_paper_says(name):
    cost = measured(name).cost
    assert cost.macs_ratio == pytest.approx(1, abs=0.005)
    assert round(cost.params / 1e6) == EXPERIMENTS[name].paper_params
    # With elementwise operations, to the last digit.
    assert round((cost.macs + measured(name).elementwise) / 1e9) == cost.paper_gmacs
    assert measured(name).elementwise < 0.003 * cost.macs


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_readme_states_what_is_measured(name):
    cost = measured(name).cost
    (row,) = (line for line in README.splitlines() if f'[`{name}`]' in line)
    assert f'| {cost.params / 1e6:.1f} M | {cost.macs / 1e9:.0f} |' in row


# One in each kind of heads; the rest runs with the slow tests.
QUICK = ('mask_rcnn_swin_t', 'cascade_mask_rcnn_r50', 'upernet_swin_l_in22k')


@pytest.mark.parametrize(
    'name',
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COMPARATORS],
)
def test_comparator_costs_what_the_paper_says(name):
    cost, comparator = measured(name).cost, COMPARATORS[name]
    assert (round(cost.macs / 1e9, 2), round(cost.params / 1e6, 2)) == MEASURED[name]
    if comparator.paper_params:
        assert round(cost.params / 1e6) == comparator.paper_params
    if comparator.note:
        assert abs(cost.macs_ratio - 1) > 0.005  # else there is nothing to explain
        without_attention = (cost.macs - measured(name).attention) / 1e9
        assert without_attention / comparator.paper_gmacs == pytest.approx(1, abs=0.001)
    else:
        assert cost.macs_ratio == pytest.approx(1, abs=0.005)
    if 'swin' not in name:
        assert round((cost.macs + measured(name).elementwise) / 1e9) == cost.paper_gmacs


def test_there_are_thirteen_comparators_and_all_are_pinned():
    assert list(MEASURED) == list(COMPARATORS)


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_classifier_costs_what_the_paper_says(name):
    classifier = CLASSIFIERS[name]
    cost = measure(name, build_classifier(classifier.arch))
    assert cost.params == CLASSIFIER_PARAMS[classifier.arch]
    assert round(cost.params / 1e6) == classifier.paper_params
    if classifier.size == 224:
        assert round(cost.macs / 1e9, 1) == classifier.paper_gmacs
    else:
        assert cost.macs_ratio == pytest.approx(1, abs=0.005)


def test_parts_are_the_stages_and_the_heads():
    backbone = ['stem', 'stage 1', *(f'downsampling + stage {i}' for i in (2, 3, 4))]
    backbone = [f'backbone: {stage}' for stage in (*backbone, 'output norms')]
    heads = {
        'mask_rcnn_convnext_t': ['neck', 'RPN head', 'box head', 'mask head'],
        'cascade_mask_rcnn_convnext_t': [
            *('neck', 'RPN head'),
            *(f'{head} head {i}' for head in ('box', 'mask') for i in (1, 2, 3)),
        ],
        'upernet_convnext_t': ['decode head', 'auxiliary head'],
    }
    for name, expected in heads.items():
        parts = {part.name: part for part in measured(name).cost.parts}
        assert list(parts) == [*backbone, *expected]
        free = {part.name for part in parts.values() if not part.macs}
        assert free <= {'backbone: output norms', 'auxiliary head'}
    cascade = {p.name: p for p in measured('cascade_mask_rcnn_convnext_t').cost.parts}
    for head in ('box', 'mask'):
        assert len({cascade[f'{head} head {i}'].macs for i in (1, 2, 3)}) == 1
    # The backbone costs the same in all heads on the same image.
    mask_rcnn = measured('mask_rcnn_convnext_t').cost.parts
    assert mask_rcnn[:6] == measured('cascade_mask_rcnn_convnext_t').cost.parts[:6]


@pytest.mark.parametrize('path', SAMPLES, ids=lambda path: path.stem)
def test_an_independent_counter_agrees(path):
    """mmengine traces real modules with real numbers on the CPU."""
    cfg = Config.fromfile(path)
    counted = {part.name: part for part in count_parts(build_on_meta(cfg), (64, 96))}
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    model.eval()
    assert sum(part.params for part in counted.values()) == sum(
        p.numel() for p in model.parameters()
    )

    def macs(module: nn.Module, inputs: torch.Tensor | tuple) -> int:
        analyzer = FlopAnalyzer(module, (inputs,))
        analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        operators = analyzer.by_operator()
        return sum(operators[name] for name in ('conv', 'linear', 'matmul'))

    image = torch.zeros(1, 3, 64, 96)
    assert sum(p.macs for n, p in counted.items() if n.startswith('backbone')) == macs(
        model.backbone, image
    )
    maps = model.backbone(image)
    if cfg.default_scope == 'mmseg':
        assert counted['decode head'].macs == macs(model.decode_head, maps)
        return
    assert counted['neck'].macs == macs(model.neck, maps)
    assert counted['RPN head'].macs == macs(model.rpn_head, model.neck(maps))
    channels = cfg.model.neck.out_channels
    box_head, mask_head = model.roi_head.bbox_head, model.roi_head.mask_head
    assert counted['box head'].macs == 1000 * macs(box_head, torch.zeros(1, channels, 7, 7))
    assert counted['mask head'].macs == 100 * macs(mask_head, torch.zeros(1, channels, 14, 14))


DETECTOR, SEGMENTOR = (Config.fromfile(path) for path in SAMPLES)
RESNET = dict(_delete_=True, type='ResNet', depth=18, in_channels=4, norm_cfg=dict(type='SyncBN'))


def count(cfg: Config, changes: dict, shape: tuple[int, int] = (64, 64)) -> dict[str, int]:
    cfg = Config(cfg.to_dict())
    cfg.merge_from_dict(changes)
    return {part.name: part.macs for part in count_parts(build_on_meta(cfg), shape)}


def test_any_backbone_is_counted():
    detector = {
        'model.backbone': RESNET,
        'model.neck.in_channels': [64, 128, 256, 512],
    }
    parts = count(DETECTOR, detector)
    # 7x7 convolution with stride 2, from 4 channels to 64.
    assert parts['backbone: conv1'] == 7 * 7 * 4 * 64 * 32 * 32
    assert {f'backbone: layer{i}' for i in (1, 2, 3, 4)} <= set(parts)
    # A position embedding stands in no child of its backbone; attention is matrix products.
    vit = dict(
        _delete_=True,
        type='VisionTransformer',
        img_size=64,
        embed_dims=16,
        num_layers=4,
        num_heads=2,
        out_indices=(0, 1, 2, 3),
    )
    segmentor = {
        'model.backbone': vit,
        'model.decode_head.in_channels': [16] * 4,
        'model.auxiliary_head.in_channels': 16,
    }
    parts = count(SEGMENTOR, segmentor)
    assert 'backbone: other' in parts
    tokens = 4 * 4 + 1
    linear = tokens * 16 * (3 * 16 + 16 + 2 * 4 * 16)
    attention = 2 * tokens**2 * 16
    assert parts['backbone: layers.0'] == linear + attention


def test_shared_head_is_counted():
    """Detectors without FPN run the last stage of a ResNet on each proposal."""
    stages = dict(strides=(1, 2, 2), dilations=(1, 1, 1))
    extractor = dict(DETECTOR.model.roi_head.bbox_roi_extractor, out_channels=1024)
    extractor.update(featmap_strides=[16], roi_layer=dict(type='RoIAlign', output_size=14))
    head = dict(type='BBoxHead', with_avg_pool=True, in_channels=2048, num_classes=10)
    changes = {
        'model.backbone': dict(
            _delete_=True, type='ResNet', depth=50, num_stages=3, out_indices=(2,), **stages
        ),
        'model.neck': None,
        'model.rpn_head.in_channels': 1024,
        'model.rpn_head.anchor_generator.strides': [16],
        'model.roi_head.shared_head': dict(type='ResLayer', depth=50, stage=3, stride=2),
        'model.roi_head.bbox_roi_extractor': extractor,
        'model.roi_head.bbox_head': dict(_delete_=True, **head),
        'model.roi_head.mask_head': None,
        'model.roi_head.mask_roi_extractor': None,
    }
    parts = count(DETECTOR, changes)
    assert list(parts)[-3:] == ['RPN head', 'box head', 'shared head']
    assert parts['box head'] == 1000 * 2048 * (10 + 1 + 4 * 10)
    # Three bottlenecks; the first has a stride of two and a shortcut of its own.
    first = 14 * 14 * 1024 * 512 + 7 * 7 * (9 * 512 * 512 + 512 * 2048 + 1024 * 2048)
    others = 2 * 7 * 7 * (2048 * 512 + 9 * 512 * 512 + 512 * 2048)
    assert parts['shared head'] == 1000 * (first + others)


def test_cascaded_decode_heads_are_counted():
    head = dict(in_channels=256, in_index=3, channels=16, num_classes=11)
    changes = {
        'model.type': 'CascadeEncoderDecoder',
        'model.num_stages': 2,
        'model.decode_head': [
            dict(type='FCNHead', num_convs=1, concat_input=False, **head),
            dict(type='OCRHead', ocr_channels=8, **head),
        ],
        'model.auxiliary_head': None,
    }
    parts = count(SEGMENTOR, changes)
    assert parts['decode head 1'] == 2 * 2 * (9 * 256 * 16 + 16 * 11)
    assert parts['decode head 2'] > 2 * 2 * 9 * 256 * 16


@pytest.mark.parametrize(
    ('cfg', 'changes', 'message'),
    [
        (DETECTOR, {'model.type': 'TwoStageDetector', 'model.roi_head': None}, 'got TwoStage'),
        (
            DETECTOR,
            {'model.roi_head.type': 'DoubleHeadRoIHead', 'model.roi_head.reg_roi_scale_factor': 1},
            'got DoubleHeadRoIHead',
        ),
        (
            DETECTOR,
            {'model.roi_head.bbox_roi_extractor.type': 'GenericRoIExtractor'}
            | {'model.roi_head.bbox_roi_extractor.aggregation': 'sum'}
            | {
                'model.roi_head.bbox_roi_extractor.pre_cfg': dict(
                    type='ConvModule', in_channels=64, out_channels=64, kernel_size=1
                )
            },
            '4,160 parameters belong to none of them',
        ),
        (
            DETECTOR,
            {
                'model.backbone': dict(
                    _delete_=True,
                    type='ResNet',
                    depth=50,
                    dcn=dict(type='DCN', deform_groups=1),
                    stage_with_dcn=(False, False, False, True),
                ),
                'model.neck.in_channels': [256, 512, 1024, 2048],
            },
            'expected ResNet to run at this image size, on the meta device',
        ),
        (SEGMENTOR, {'model.decode_head.in_channels': [8] * 4}, 'expected UPerHead to run'),
    ],
)
def test_what_cannot_be_counted_is_said(cfg, changes, message):
    with pytest.raises(ValueError, match=message):
        count(cfg, changes)


def run(capsys, *args: str) -> str:
    tool.main([*map(str, args)])
    return capsys.readouterr().out


def test_reports_hold_the_same_figures():
    shape = (64, 96)
    costs = [
        measure('convnext_tiny_224', build_classifier('tiny'), shape),
        measure('mine', tool.build(str(SAMPLES[0])), shape),
    ]
    report = json.loads(tool.render(costs, 'json', breakdown=False))
    assert report['convention'] == CONVENTION and 'multiply-adds' in CONVENTION
    classifier, detector = report['models']
    assert detector['name'] == 'mine' and detector['input_shape'] == [64, 96]
    assert detector['macs'] == sum(part['macs'] for part in detector['parts'])
    # The paper's multiply-adds are for another image, its parameters for any.
    assert classifier['paper_gmacs'] is None and classifier['macs_ratio'] is None
    assert classifier['paper_params'] == 29

    markdown = tool.render(costs, 'markdown', breakdown=False).splitlines()
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in markdown[:4]]
    assert rows[0][:3] == ['model', 'image', 'params, M'] and set(rows[1][0]) == {'-'}
    assert rows[2] == [
        *('convnext_tiny_224', '64 x 96', '28.59', '29', '0.9858'),
        *(f'{classifier["macs"] / 1e9:.2f}', '', ''),
    ]
    assert markdown[4] == '' and ' '.join(markdown[5:]) == CONVENTION

    table = tool.render(costs, 'table', breakdown=True)
    assert all(f'- {part["name"]} ' in table for part in detector['parts'])
    assert '- neck' not in tool.render(costs, 'table', breakdown=False)


def test_a_report_goes_to_a_file(capsys, tmp_path):
    out = tmp_path / 'reports' / 'costs.md'
    printed = run(capsys, 'convnext_tiny_224', '--format=markdown', '--breakdown', '--out', out)
    assert printed == f'1 models are in {out}\n'
    text = out.read_text()
    assert '4.46 |   4.5 | 0.9901 |' in text and '| - backbone: stem ' in text
    assert list(out.parent.iterdir()) == [out]


def test_arguments_name_models(capsys):
    assert tool.find_models('upernet_convnext_t') == ['upernet_convnext_t']
    assert tool.find_models('swin_l') == [
        'cascade_mask_rcnn_swin_l_in22k',
        'upernet_swin_l_in22k',
    ]
    assert tool.find_models('r50') == ['cascade_mask_rcnn_r50']
    assert tool.find_models('mine.py') == ['mine.py']
    # A row that differs from the paper's says why.
    rendered = tool.render([Cost('x', (1, 1), (), note=SWIN_L_NOTE)] * 2, 'table', False)
    assert ' '.join(rendered.split()).count(SWIN_L_NOTE) == 1


def test_by_default_the_thirteen_and_the_flags_add(capsys, monkeypatch):
    names = []

    def note(name, model, shape):
        names.append(name)
        return Cost(name, shape or (1, 1), ())

    monkeypatch.setattr(tool, 'build', lambda model: None)
    monkeypatch.setattr(complexity, 'measure', note)
    run(capsys)
    assert names == list(EXPERIMENTS) and len(names) == 13
    names.clear()
    run(capsys, 'swin_t', '--imagenet', '--comparators')
    assert names[:3] == [name for name in COMPARATORS if 'swin_t' in name]
    assert len(names) == len(COMPARATORS) + len(CLASSIFIERS)  # none twice


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['none.py'], "complexity: expected a config file, found none at 'none.py'"),
        (['swin_x'], "got 'swin_x'; did you mean"),
        ([SAMPLES[0]], 'expected --shape H W for mask_rcnn_convnext_sample'),
        (['convnext_tiny_224', '--shape', 0, 64], 'of at least one pixel, got (0, 64)'),
        (['convnext_tiny_224', '--shape', 8, 64], 'at least 32'),
    ],
)
def test_wrong_arguments_get_one_sentence(args, message):
    with pytest.raises(SystemExit) as error:
        tool.main([*map(str, args)])
    assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.slow
def test_classifiers_need_neither_toolbox(run_python, tmp_path):
    code = f"""
        import runpy, sys
        sys.modules['mmcv'] = sys.modules['mmdet'] = sys.modules['mmseg'] = None
        sys.argv = ['complexity.py', 'convnext_tiny_224']
        runpy.run_path({str(ROOT / 'tools/complexity.py')!r}, run_name='__main__')
    """
    assert 'convnext_tiny_224' in run_python(code, tmp_path)
