"""What is chosen for data and machine, and what is refused."""

import pytest
from support.found import CPU, GPU, detection, label_maps

from convnext_backbones.authoring.plan import (
    LEAST_EPOCHS,
    MOST_EPOCHS,
    RECIPE_BATCH,
    Wishes,
    choose_head,
    make_plan,
)
from convnext_backbones.data.found import Split


def plan(found, wishes=Wishes(), machine=GPU):  # noqa: B008
    name, head = choose_head(found, wishes)
    return make_plan(found, name, head, wishes, machine)


def with_images(found, number):
    split = found.splits['train']
    train = Split(split.images, split.annotations, number)
    return type(found)(**{**vars(found), 'splits': dict(found.splits, train=train)})


@pytest.mark.parametrize(
    'found, name',
    [
        (detection(), 'mask_rcnn'),
        (detection(has_masks=False), 'faster_rcnn'),
        (label_maps(), 'upernet'),
    ],
)
def test_a_head_suits_the_data(found, name):
    assert choose_head(found, Wishes())[0] == name


@pytest.mark.parametrize(
    'found, head, expected',
    [
        (label_maps(), 'mask_rcnn', 'expected a segmentor for the label maps .* --head upernet'),
        (detection(), 'upernet', 'expected a detector for the boxes .* --head faster_rcnn'),
        (detection(has_masks=False), 'mask_rcnn', 'expected masks for the head .* boxes only'),
        (detection(), 'mmdet::htc/htc_r50_fpn_1x_coco', 'needs label maps of the whole image'),
        (detection(), 'mask_rcn', 'mask_rcnn'),
    ],
)
def test_heads_that_do_not_suit_are_refused(found, head, expected):
    with pytest.raises(ValueError, match=expected):
        choose_head(found, Wishes(head))


def test_few_images_are_seen_often_and_many_seldom():
    few, some, many = (plan(with_images(detection(), n)) for n in (50, 1000, 100_000))
    assert (few.epochs, some.epochs, many.epochs) == (MOST_EPOCHS, 40, LEAST_EPOCHS)
    assert some.epochs_reason == '40,000 images, each of 1,000 many times'
    assert some.val_interval == 4
    assert many.val_interval == 1


def test_a_cpu_trains_less_on_smaller_crops():
    gpu, cpu = (plan(label_maps(), machine=machine) for machine in (GPU, CPU))
    assert cpu.epochs < gpu.epochs
    assert cpu.sizes.crop < gpu.sizes.crop
    assert cpu.batch < gpu.batch


def test_the_rate_follows_the_batch():
    one, four = (plan(detection(), Wishes(batch=number)) for number in (4, RECIPE_BATCH))
    assert four.lr == 1e-4
    assert one.lr == four.lr / 2


def test_larger_weights_mean_smaller_batches():
    tiny, large = (
        plan(label_maps(), Wishes(weights=name))
        for name in ('convnext_tiny_1k_224', 'convnext_large_22k_224')
    )
    assert large.batch < tiny.batch


def test_more_images_per_step_than_there_are_is_refused():
    assert plan(with_images(detection(), 1)).batch == 1
    with pytest.raises(ValueError, match='expected at most 3 images per step'):
        plan(with_images(detection(), 3), Wishes(batch=4))


def test_one_image_per_step_is_refused_where_a_batch_norm_pools_it_to_one_value():
    with pytest.raises(ValueError, match="for the batch norms of 'upernet', got 1 with 1 image "):
        plan(with_images(label_maps(), 1))
    with pytest.raises(ValueError, match='give a larger --batch'):
        plan(label_maps(), Wishes('deeplabv3plus', batch=1))
    assert plan(label_maps(), Wishes('mask2former_semantic', batch=1)).batch == 1


@pytest.mark.parametrize('found, name', [(detection(), 'mask_rcnn'), (label_maps(), 'upernet')])
def test_without_weights_a_small_network_learns_at_a_high_rate(found, name):
    wishes = Wishes(weights='none')
    assert choose_head(found, wishes)[0] == f'{name}_small'
    assert choose_head(found, Wishes(name, 'none'))[0] == f'{name}_small'
    assert choose_head(found, Wishes(name, 'none', 'tiny'))[0] == name
    assert plan(found, wishes, CPU).lr == 1e-3
    assert plan(found, wishes, CPU).weights is None


def test_weights_that_nobody_knows_are_refused():
    with pytest.raises(FileNotFoundError, match='convnext_tiny_1k_224'):
        choose_head(detection(), Wishes(weights='convnext_tiny_1k_22'))
