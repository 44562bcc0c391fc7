"""Every figure of the road: counted by the package, and typed here once more."""

import json

import pytest
import torch
from mmdet.models import SwinTransformer
from torch.utils.flop_counter import FlopCounterMode

from convnext_backbones.benchmark import roadmap
from convnext_backbones.benchmark.paper import SWIN_B, SWIN_T
from convnext_backbones.benchmark.roadmap_blocks import block_pictures
from convnext_backbones.benchmark.roadmap_figure import draw_road, save_figure
from convnext_backbones.engine.build import WeightsOnMeta
from convnext_backbones.models.roadmap_steps import STEPS

# Multiply-adds, parameters without layer scale, and those of layer scale, in regimes T and B.
COUNTS = {
    'resnet': (4_089_184_256, 25_557_032, 0, 15_007_481_856, 64_673_832, 0),
    'enhanced_recipe': (4_089_184_256, 25_557_032, 15_104, 15_007_481_856, 64_673_832, 56_064),
    'stage_ratio': (4_525_916_160, 28_628_520, 17_664, 14_518_404_096, 83_066_332, 47_376),
    'patchify_stem': (4_417_536_000, 28_622_120, 17_664, 14_376_155_136, 83_057_932, 47_376),
    'depthwise_conv': (2_349_507_072, 15_722_600, 17_664, 7_234_368_288, 42_585_472, 47_376),
    'increase_width': (5_267_976_960, 33_760_936, 26_496, 16_763_933_696, 96_526_568, 72_192),
    'inverting_dimensions': (4_644_406_272, 25_851_400, 6_624, 15_679_418_368, 83_700_072, 18_048),
    'move_up_depthwise_conv': (
        4_065_080_448, 25_625_416, 6_624, 14_627_001_856, 83_094_632, 18_048),
    'kernel_size_5': (4_097_293_440, 25_720_648, 6_624, 14_698_853_888, 83_369_064, 18_048),
    'kernel_size_7': (4_145_612_928, 25_863_496, 6_624, 14_806_631_936, 83_780_712, 18_048),
    'kernel_size_9': (4_210_038_912, 26_053_960, 6_624, 14_950_336_000, 84_329_576, 18_048),
    'kernel_size_11': (4_290_571_392, 26_292_040, 6_624, 15_129_966_080, 85_015_656, 18_048),
    'gelu': (4_145_612_928, 25_863_496, 6_624, 14_806_631_936, 83_780_712, 18_048),
    'fewer_activations': (4_145_612_928, 25_863_496, 6_624, 14_806_631_936, 83_780_712, 18_048),
    'fewer_norms': (4_145_612_928, 25_830_376, 6_624, 14_806_631_936, 83_690_472, 18_048),
    'layer_norm': (4_145_612_928, 25_837_672, 6_624, 14_806_631_936, 83_709_416, 18_048),
    'convnext': (4_455_531_264, 28_582_504, 6_624, 15_354_729_472, 88_573_416, 18_048),
}  # fmt: skip
# Of regime T, in millions: stem, spatial, pointwise, shortcut, downsampling, head.
KINDS = {
    'resnet': (118.0, 1849.7, 1759.8, 359.7, 0, 2.0),
    'stage_ratio': (118.0, 2080.9, 1965.3, 359.7, 0, 2.0),
    'patchify_stem': (9.6, 2080.9, 1965.3, 359.7, 0, 2.0),
    'depthwise_conv': (9.6, 12.9, 1965.3, 359.7, 0, 2.0),
    'increase_width': (14.5, 19.3, 4421.9, 809.2, 0, 3.1),
    'inverting_dimensions': (14.5, 77.2, 4508.6, 43.4, 0, 0.8),
    'move_up_depthwise_conv': (14.5, 18.1, 3988.4, 43.4, 0, 0.8),
    'kernel_size_7': (14.5, 98.7, 3988.4, 43.4, 0, 0.8),
    'convnext': (14.5, 105.1, 4161.8, 0, 173.4, 0.8),
}


@pytest.fixture(scope='module')
def counts():
    return {(count.step, count.regime): count for count in roadmap.count_road()}


@pytest.mark.parametrize('step', COUNTS)
def test_the_counts_are_these(counts, step):
    found = [counts[step, regime] for regime in 'TB']
    figures = [(one.total, one.params, one.layer_scale) for one in found]
    assert (*figures[0], *figures[1]) == COUNTS[step]


@pytest.mark.parametrize('step', KINDS)
def test_the_multiply_adds_are_in_these_layers(counts, step):
    macs = counts[step, 'T'].macs
    assert list(macs) == list(roadmap.KINDS)
    assert [round(value / 1e6, 1) for value in macs.values()] == list(KINDS[step])


def test_the_counts_agree_with_the_paper_but_for_two_cells(counts):
    assert set(COUNTS) == set(STEPS) and len(counts) == 34
    differing = roadmap.differing(counts.values())
    assert [(one.step, one.regime) for one in differing] == [('layer_norm', 'T'), ('convnext', 'T')]


@pytest.mark.parametrize(
    ('backbone', 'width', 'total'), [(SWIN_T, 768, 4_490_566_656), (SWIN_B, 1024, 15_430_946_816)]
)
def test_what_the_notes_say_of_swin(backbone, width, total):
    with WeightsOnMeta():
        net = SwinTransformer(**{k: v for k, v in backbone.items() if k != 'type'}).to('meta')
    net.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, 224, 224, device='meta'))
    assert counter.get_total_flops() // 2 + 1000 * width == total
    assert '4.49 for Swin-T' in roadmap.SLIPPED and f'{4_490_566_656 / 1e9:.2f}' == '4.49'


def test_the_hand_count_of_the_paper(counts):
    """A 1x1 convolution from C to C costs the same in every stage; blocks are multiples of it."""
    unit = 3136 * 96**2

    def pointwise(step):
        macs = counts[step, 'T'].macs
        return macs['pointwise'] + macs['shortcut'] + macs['downsampling']

    assert pointwise('increase_width') == 181 * unit
    assert pointwise('inverting_dimensions') == 157.5 * unit
    assert pointwise('layer_norm') == 139.5 * unit
    assert pointwise('convnext') == 150 * unit


def test_tables_have_every_figure_and_say_what_differs(counts):
    ordered = list(counts.values())
    text = roadmap.render(ordered, 'markdown', with_kinds=True)
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines()]
    by_title = {row[0]: row for row in rows if len(row) == 6}
    assert by_title['0 ResNet-50'] == ['0 ResNet-50', '4.09', '4.09', '25,557,032', '0', '76.13']
    assert by_title['15 BN to LN'][1:3] in (['4.15', '4.46 (differs)'], ['14.81', '14.81'])
    assert by_title['16 separate downsampling conv (ConvNeXt-T)'][1:] == [
        '4.46', '4.49 (differs)', '28,582,504', '6,624', '81.97 ± 0.06']  # fmt: skip
    assert by_title['16 separate downsampling conv (ConvNeXt-B)'][5] == '83.60'
    assert by_title['Swin-T'][2] == '4.50' and by_title['Swin-B'][5] == '83.50'
    assert '10 kernel size 9 (not on the road)' in by_title
    assert sum(len(row) == 8 for row in rows) == 2 * (17 + 2)  # and headings, and rules
    assert roadmap.CONVENTION in text and roadmap.SLIPPED in text
    assert '2 of 34 cells differ: layer_norm in regime T (4.15, printed 4.46), convnext' in text
    only_b = [count for count in ordered if count.regime == 'B']
    text = roadmap.render(only_b, 'text')
    assert 'All cells agree' in text and roadmap.SLIPPED not in text
    data = json.loads(roadmap.render(ordered, 'json'))
    assert len(data['steps']) == 34 and len(data['notes']) == 3
    last = data['steps'][-1]
    assert (last['macs'], last['follows'], last['agrees']) == (15_354_729_472, 'layer_norm', True)
    assert last['authors_accuracy'] == 83.60


def test_a_count_that_differs_elsewhere_is_named_without_that_reason(counts):
    wrong = [count for count in counts.values() if count.regime == 'B']
    wrong[3] = roadmap.Count('patchify_stem', 'B', dict(stem=1), 1, 0)
    assert roadmap.notes(wrong)[1:] == [
        '1 of 17 cells differ: patchify_stem in regime B (0.00, printed 14.38).'
    ]


def test_the_figure_has_our_counts_and_the_authors_accuracies(counts, tmp_path):
    figure = draw_road(list(counts.values()))
    axes = [a for a in figure.axes if a.patches]
    above = [a for a in figure.axes if not a.patches]
    for panel, marks, regime in zip(axes, above, 'TB', strict=True):
        widths = [bar.get_width() for bar in panel.patches]
        assert widths == [STEPS[step].printed[regime].accuracy for step in STEPS]
        drawn = marks.lines[0].get_xdata()
        assert list(drawn) == [counts[step, regime].total / 1e9 for step in STEPS]
        colors = [bar.get_facecolor() for bar in panel.patches]
        assert colors[10] == colors[11] != colors[9]
    for name in ('a.png', 'a.svg', 'a.pdf'):
        save_figure(figure, tmp_path / 'new' / name)
        assert (tmp_path / 'new' / name).stat().st_size > 5000
    with pytest.raises(ValueError, match=r"ending in .png, .svg, .pdf, got '.*a.gif'"):
        save_figure(figure, tmp_path / 'a.gif')


def test_block_pictures_are_read_off_the_networks():
    text = block_pictures('T')
    assert (
        """\
 256 ─┬─ 1x1, 128 ─ BN ─ ReLU ─ 3x3 / 2, 128 ─ BN ─ ReLU ─ 1x1, 512 ─ BN ─ + ─ ReLU
      └─ 1x1 / 2, 512 ─ BN ────────────────────────────────────────────────┘
 512 ─┬─ 1x1, 128 ─ BN ─ ReLU ─ 3x3, 128 ─ BN ─ ReLU ─ 1x1, 512 ─ BN ─ + ─ ReLU
      └────────────────────────────────────────────────────────────────┘
"""
        in text
    )
    assert text.endswith("""\
  96 ─ LN ─ 2x2 / 2, 192
 192 ─┬─ 7x7 dw, 192 ─ LN ─ 1x1, 768 ─ GELU ─ 1x1, 192 ─ scale ─ +
      └──────────────────────────────────────────────────────────┘""")
    # What a step changes outside of its blocks is not drawn.
    assert '2 stage ratio' not in text and '3 "patchify" stem' not in text
    assert '2 stage ratio' in block_pictures('B')  # its width changes, too
