"""The pages about what changed between two sets of predictions."""

import re

import numpy as np
import pytest

from convnext_backbones.analysis import detection_changes as boxes
from convnext_backbones.analysis import segmentation_changes as maps
from convnext_backbones.analysis.detection_data import DetectionImage, Found, Truth
from convnext_backbones.reports import detection_changes_page as boxes_page
from convnext_backbones.reports import segmentation_changes_page as maps_page
from convnext_backbones.reports.segmentation_pictures import make_legend

HOSTILE = '<script>alert(1)</script>'
LEGEND = make_legend((HOSTILE, 'dog'))


def write_maps(path, with_truth=True, equal=False, image=None):
    rng = np.random.default_rng(0)
    counter = maps.SegmentationChangeCounter(LEGEND.classes, with_truth)
    cards = []
    for number in range(3):
        truth, a, b = rng.integers(0, 2, (3, 8, 10), np.uint8)
        b = a if equal else b
        truth = truth if with_truth else None
        change = counter.add(f'{number}.jpg', a, b, truth)
        cards.append(maps_page.changes_card(change, a, b, truth, image, LEGEND, 255))
    changes = counter.changes()
    maps_page.write_segmentation_changes_page(path, changes, cards, LEGEND, {'A': HOSTILE})
    return changes, cards, path.read_text()


def detections(*found):
    rows = list(zip(*found, strict=True)) if found else [(), (), ()]
    return Found(np.array(rows[0], float).reshape(-1, 4), np.array(rows[1], int), np.array(rows[2]))


def write_boxes(path, with_truth=True, equal=False, pixels=None):
    box, other = (5, 5, 10, 10), (25, 5, 10, 10)
    truth = Truth(np.array([box], float), np.array([1]), np.array([100.0]), np.array([False]))
    a = DetectionImage('a.jpg', '', (30, 40), truth, detections((box, 0, 0.9)))
    found = a.found if equal else detections((box, 1, 0.8), (other, 1, 0.7))
    b = DetectionImage('a.jpg', '', (30, 40), truth, found)
    changes = boxes.compare_detections([a], [b], LEGEND.classes, with_truth)
    cards = [boxes_page.changes_card(changes.images[0], a, b, pixels, LEGEND)]
    boxes_page.write_detection_changes_page(path, changes, [(a, b)], cards, LEGEND, {'A': HOSTILE})
    return changes, cards, path.read_text()


@pytest.mark.parametrize('write', [write_maps, write_boxes])
@pytest.mark.parametrize('with_truth', [True, False])
def test_equal_predictions_are_said_to_be(write, with_truth, tmp_path):
    _, _, page = write(tmp_path / 'changes.html', with_truth, equal=True)
    assert 'Nothing changed: A and B are the same.' in page
    assert '<img' not in page and page.count('<section') == 1


@pytest.mark.parametrize('write', [write_maps, write_boxes])
@pytest.mark.parametrize('with_truth', [True, False])
def test_names_are_escaped_and_truth_is_optional(write, with_truth, tmp_path):
    _, _, page = write(tmp_path / 'changes.html', with_truth)
    assert HOSTILE not in page and page.count('<script>') == 1
    assert 'Nothing changed' not in page
    assert ('became right' in page) == with_truth


def test_numbers_of_label_maps(tmp_path):
    changes, cards, page = write_maps(tmp_path / 'changes.html')
    rows = dict(reversed(re.findall(r'<tr data-class="([^"]+)">(.*?)</tr>', page, re.S)))
    values = [float(v) for v in re.findall(r'data-value="([^"]+)"', rows['dog'])]
    dog = changes.classes[1]
    expected = [*(100 * iou for iou in dog.iou), dog.became_right, dog.became_wrong]
    assert values == pytest.approx([*expected, *dog.pixels, dog.left, dog.joined])
    assert {card.group for card in cards} <= {'better', 'worse', 'neither better nor worse'}
    for image in changes.images:
        assert repr(100 * image.share) in page


@pytest.mark.parametrize(('with_truth', 'pictures'), [(True, 5), (False, 4)])
def test_pictures_of_label_maps(with_truth, pictures, tmp_path):
    image = np.zeros((80, 100, 3), np.uint8)
    _, cards, _ = write_maps(tmp_path / 'changes.html', with_truth, image=image)
    assert {len(card.pictures) for card in cards} == {pictures}


def test_changed_pixels_are_green_where_they_became_right_and_red_where_wrong():
    counter = maps.SegmentationChangeCounter(LEGEND.classes, with_truth=True)
    truth, a, b = np.zeros((3, 3, 20), np.uint8)
    a[1, 2] = 1  # becomes right
    b[1, 16] = 1  # becomes wrong
    change = counter.add('a', a, b, truth)
    card = maps_page.changes_card(change, a, b, truth, None, LEGEND, 255)
    _, drawn = card.pictures[-1]
    assert drawn[1, 2].tolist() == [0, 150, 80] and drawn[1, 16].tolist() == [210, 40, 40]
    assert card.group == 'neither better nor worse'


def test_numbers_of_detections(tmp_path):
    changes, cards, page = write_boxes(tmp_path / 'changes.html')
    assert cards[0].groups == ('class changed', 'new', 'became right')
    assert f'{HOSTILE} → dog' in cards[0].lines
    assert 'data-group="class changed\nnew\nbecame right"' in page
    assert '0 kept, 0 box moved, 1 class changed, 0 gone, 1 new' in page
    assert [caption for caption, _ in cards[0].pictures] == [
        'truth',
        'A: 1 detections',
        'B: 2 detections',
    ]
    assert changes.became_right == 1


def test_boxes_without_an_image_are_drawn_on_a_blank_ground(tmp_path):
    _, cards, _ = write_boxes(tmp_path / 'changes.html', with_truth=False)
    _, drawn = cards[0].pictures[0]
    assert (drawn == 235).all(2).mean() > 0.3
