"""The table of the road: every figure typed here once more, from the paper's tables 10 and 11."""

import pytest

from convnext_backbones.models.roadmap_steps import (
    STEPS,
    SWIN,
    find_sizes,
    find_step,
    is_on_the_road,
)

# Step: accuracy, deviation and multiply-adds of table 10; accuracy and multiply-adds of table 11.
PAPER = {
    'resnet': (76.13, None, 4.09, 78.20, 15.01),
    'enhanced_recipe': (78.82, 0.07, 4.09, 81.14, 15.01),
    'stage_ratio': (79.36, 0.07, 4.53, 81.33, 14.52),
    'patchify_stem': (79.51, 0.18, 4.42, 81.59, 14.38),
    'depthwise_conv': (78.28, 0.08, 2.35, 80.54, 7.23),
    'increase_width': (80.50, 0.02, 5.27, 81.85, 16.76),
    'inverting_dimensions': (80.64, 0.03, 4.64, 82.64, 15.68),
    'move_up_depthwise_conv': (79.92, 0.08, 4.07, 82.04, 14.63),
    'kernel_size_5': (80.35, 0.08, 4.10, 82.32, 14.70),
    'kernel_size_7': (80.57, 0.14, 4.15, 82.30, 14.81),
    'kernel_size_9': (80.57, 0.06, 4.21, 82.27, 14.95),
    'kernel_size_11': (80.47, 0.11, 4.29, 82.18, 15.13),
    'gelu': (80.62, 0.14, 4.15, 82.19, 14.81),
    'fewer_activations': (81.27, 0.06, 4.15, 82.71, 14.81),
    'fewer_norms': (81.41, 0.09, 4.15, 83.17, 14.81),
    'layer_norm': (81.47, 0.09, 4.46, 83.35, 14.81),
    'convnext': (81.97, 0.06, 4.49, 83.60, 15.35),
}
# Step: T's depths and width, B's, and whether maps are four times as wide as the stage.
SIZES = {
    0: ((3, 4, 6, 3), 64, (3, 24, 36, 3), 64, True),
    1: ((3, 4, 6, 3), 64, (3, 24, 36, 3), 64, True),
    2: ((3, 3, 9, 3), 64, (3, 3, 27, 3), 84, True),
    4: ((3, 3, 9, 3), 64, (3, 3, 27, 3), 84, True),
    5: ((3, 3, 9, 3), 96, (3, 3, 27, 3), 128, True),
    6: ((3, 3, 9, 3), 96, (3, 3, 27, 3), 128, False),
    16: ((3, 3, 9, 3), 96, (3, 3, 27, 3), 128, False),
}


def test_the_steps_are_the_papers_in_its_order():
    assert list(STEPS) == list(PAPER)
    for name, (accuracy, deviation, gmacs, accuracy_b, gmacs_b) in PAPER.items():
        in_t, in_b = (STEPS[name].printed[regime] for regime in 'TB')
        assert (in_t.accuracy, in_t.deviation, in_t.gmacs) == (accuracy, deviation, gmacs)
        assert (in_b.accuracy, in_b.deviation, in_b.gmacs) == (accuracy_b, None, gmacs_b)
    assert (SWIN['T'].accuracy, SWIN['T'].gmacs) == (81.30, 4.50)
    assert (SWIN['B'].accuracy, SWIN['B'].gmacs) == (83.50, 15.43)


def test_each_step_follows_the_one_before_but_for_the_kernel_sizes_that_lead_nowhere():
    names = list(STEPS)
    follows = {name: STEPS[name].follows for name in names}
    assert follows.pop('resnet') == '' and follows.pop('gelu') == 'kernel_size_7'
    assert follows == {b: a for a, b in zip(names, names[1:], strict=False) if b != 'gelu'}
    aside = [name for name in names if not is_on_the_road(name)]
    assert aside == ['kernel_size_9', 'kernel_size_11']
    assert STEPS['convnext'].kernel_size == 7


@pytest.mark.parametrize('step', SIZES)
def test_sizes(step):
    depths, width, depths_b, width_b, is_wide = SIZES[step]
    for regime, d, w in (('T', depths, width), ('B', depths_b, width_b)):
        sizes = find_sizes(step, regime)
        assert sizes.depths == d
        assert sizes.dims == (w, 2 * w, 4 * w, 8 * w)
        assert sizes.out_channels == tuple((4 if is_wide else 1) * dim for dim in sizes.dims)
    assert find_sizes(step, 'T', 0.25).dims[0] == width // 4
    assert find_sizes(step, 'T', 1e-6).dims[0] == 1


def test_steps_are_found_by_name_and_number():
    assert [find_step(i) for i in range(17)] == list(STEPS)
    assert find_step('gelu') == 'gelu'
    with pytest.raises(ValueError, match="got 'kernel_7'; did you mean 'kernel_size_7'?"):
        find_step('kernel_7')
    for number in (-1, 17):
        with pytest.raises(ValueError, match='from 0 to 16'):
            find_step(number)
    for wrong in (None, 1.0, True):
        with pytest.raises(TypeError, match='name or number of a step'):
            find_step(wrong)
    with pytest.raises(ValueError, match="out of T, B, got 'S'"):
        find_sizes(0, 'S')
