"""The report of a detector's evaluation."""

import re
from pathlib import Path

import numpy as np
import pytest
from support.detection_images import image, made_images

from convnext_backbones.analysis.detections import analyse_detections
from convnext_backbones.io.images import UnreadableFileError
from convnext_backbones.reports import detection_page
from convnext_backbones.reports.detection_pictures import (
    Box,
    boxes_found,
    boxes_of_truth,
    draw_boxes,
    make_card,
)
from convnext_backbones.reports.segmentation_pictures import make_legend
from dev.compare_evaluators import CLASSES, DetectionMaker

EVIL = '<script>alert("1")</script>'
LEFT, RIGHT = (10, 10, 40, 40), (110, 10, 40, 40)
GRAY = np.full((100, 200, 3), 128, np.uint8)
PALETTE = [(255, 0, 0), (0, 0, 255)]


def write(path: Path, analysis, pictures=lambda index: GRAY, **options) -> str:
    options = dict(metrics=dict(mAP=0.5), origin=dict(command='test.py')) | options
    detection_page.write_detection_page(path, analysis, pictures, **options)
    return path.read_text(encoding='utf-8')


def rows(page: str, section: str) -> list[list[str]]:
    """The cells of all tables in a section."""
    (found,) = re.findall(rf'<h2>{section}</h2>(.*?)</section>', page, re.DOTALL)
    lines = re.findall(r'<tr[^>]*>(.*?)</tr>', found, re.DOTALL)
    cells = [re.findall(r'<td[^>]*>(.*?)</td>', line, re.DOTALL) for line in lines]
    return [[cell.strip() for cell in line] for line in cells if line]


@pytest.fixture(scope='module')
def generated(tmp_path_factory):
    """An analysis of generated data with 80 classes and masks, and its page."""
    names = [f'class {i + 1}' for i in range(CLASSES)]
    images = made_images(DetectionMaker(25))
    analysis = analyse_detections(images, names, tasks=('bbox', 'segm'))
    path = tmp_path_factory.mktemp('page') / 'report.html'
    # mmdet's own rounding of the metrics.
    metrics = {
        f'coco/{task}_{name}': float(f'{round(value, 3)}')
        for task, measured in analysis.precision.items()
        for name, value in measured.statistics.items()
    }
    return analysis, metrics, write(path, analysis, metrics=metrics)


def test_the_numbers_of_the_page_are_those_of_the_evaluator(generated):
    analysis, metrics, page = generated
    for name, value in metrics.items():
        assert re.search(rf'{name}</dt>\s*<dd>{value:g}</dd>', page), name
    sizes = rows(page, 'AP by size')
    assert len(sizes) == 8
    names = {'all sizes': '', 'small': '_s', 'medium': '_m', 'large': '_l'}
    for of, size, ap, *_, recall in sizes:
        task = 'bbox' if of == 'boxes' else 'segm'
        assert float(ap) == metrics[f'coco/{task}_mAP{names[size]}']
        assert float(recall) == metrics[f'coco/{task}_AR{names[size]}@1000']
    for row in (sizes[0], sizes[4]):
        task = 'bbox' if row[0] == 'boxes' else 'segm'
        assert [float(cell) for cell in row[3:5]] == [
            metrics[f'coco/{task}_mAP_{iou}'] for iou in (50, 75)
        ]
    of_classes = rows(page, 'AP by class')
    assert len(of_classes) == 2 * CLASSES
    shown = [float(row[1]) if row[1] != '–' else np.nan for row in of_classes[:CLASSES]]
    np.testing.assert_allclose(shown, analysis.precision['bbox'].by_class[:, 0], atol=6e-4)
    assert np.isnan(shown).any()


def test_errors_counts_and_images_of_the_page(generated):
    analysis, _, page = generated
    for row, kind in zip(rows(page, 'Errors by kind'), analysis.errors.kinds, strict=True):
        counts = [f'{kind.count:,}', f'{kind.total:,}', f'{100 * kind.gain:.1f}']
        assert row == [kind.name, *counts]
    counts = rows(page, 'Counts')
    assert len(counts) == CLASSES + 3
    assert counts[0][0] == 'class 1' and counts[0][1] == f'{analysis.class_counts[0].objects:,}'
    confusions = rows(page, 'Confusion matrix')
    wrong = analysis.confusion.copy()
    np.fill_diagonal(wrong, 0)
    assert len(confusions) == 50 and int(confusions[0][3]) == wrong.max()
    bins = rows(page, 'Calibration')
    assert sum(int(row[1].replace(',', '')) for row in bins) == analysis.calibration.counts.sum()
    images = rows(page, 'All images')
    assert len(images) == 25
    scores = [float(row[1]) for row in images]
    assert scores == sorted(scores)
    assert page.count('<svg') >= 3 and 'the 10 classes with the most objects' in page


def test_names_are_text(tmp_path):
    images = [image([(0, *LEFT)], [(1, *LEFT, 0.9)], EVIL)]
    analysis = analyse_detections(images, [EVIL, '$x$ _'])
    options = dict(origin={EVIL: EVIL}, metrics={EVIL: 1})
    page = write(tmp_path / 'page.html', analysis, **options)
    assert EVIL not in page and page.count('&lt;script&gt;') > 8


@pytest.mark.parametrize('objects', [[], [(0, *LEFT)]])
@pytest.mark.parametrize('found', [[], [(0, *LEFT, 0.9)]])
def test_data_with_little_to_show(tmp_path, objects, found):
    analysis = analyse_detections([image(objects, found)], ['cat'])
    page = write(tmp_path / 'page.html', analysis)
    assert ('No image has objects or detections.' in page) == (not objects and not found)
    assert ('There are no detections.' in page) == (not found)
    assert 'id="class-filter"' not in page  # of one class


def test_few_thresholds(tmp_path):
    analysis = analyse_detections([image([(0, *LEFT)])], ['cat'], iou_thresholds=[0.6])
    assert 'neither IoU 0.50 nor IoU 0.75' in write(tmp_path / 'page.html', analysis)


def test_the_table_of_images_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(detection_page, 'MOST_ROWS', 2)
    analysis = analyse_detections([image([(0, *LEFT)], name=n) for n in 'abc'], ['cat'])
    page = write(tmp_path / 'page.html', analysis)
    assert [row[0] for row in rows(page, 'All images')] == ['a', 'b']
    assert 'The worst 2 of 3 images.' in page


def test_cards(tmp_path):
    found = [(0, *LEFT, 0.9), (1, *LEFT, 0.8), (1, *RIGHT, 0.1)]
    analysis = analyse_detections([image([(0, *LEFT), (0, *RIGHT)], found)], ['cat', 'dog'])
    truth, boxes = boxes_of_truth(analysis, 0), boxes_found(analysis, 0)
    assert [(b.caption, b.wrong) for b in truth] == [('cat', False), ('cat', True)]
    assert [(b.caption, b.wrong) for b in boxes] == [('dog 0.80', True), ('cat 0.90', False)]
    card = make_card(analysis, 0, 'worst', lambda index: GRAY, make_legend(['cat', 'dog'], PALETTE))
    assert [caption for caption, _ in card.pictures] == ['truth: 2 objects', 'found: 2 detections']
    assert card.lines == [
        'F1 0.50: 1 correct, 1 false, 1 missed',
        'not correct: 1 classification',
    ]
    assert card.classes == ['cat', 'dog'] and card.group == 'worst'


def test_the_only_class_is_not_named_in_pictures():
    one = image([(0, *LEFT), (0, *LEFT)], [(0, *LEFT, 0.9)], crowd=[1])
    analysis = analyse_detections([one], ['cat'])
    assert [box.caption for box in boxes_of_truth(analysis, 0)] == ['', '(crowd)']
    assert [box.caption for box in boxes_found(analysis, 0)] == ['0.90']


def test_an_image_that_cannot_be_read_has_a_sentence(tmp_path):
    def pictures(index):
        raise UnreadableFileError('cannot read the image')

    analysis = analyse_detections([image([(0, *LEFT)])], ['cat'])
    page = write(tmp_path / 'page.html', analysis, pictures)
    assert 'cannot read the image' in page and '<img' not in page


def test_boxes_are_drawn_in_place_and_in_the_colors_of_classes():
    legend = make_legend(['cat', 'dog'], PALETTE)
    large = np.zeros((600, 1200, 3), np.uint8)
    one = image(size=(600, 1200))
    drawn = draw_boxes(large, one, [Box((100, 200, 300, 250), 0, 'cat', False)], legend)
    assert drawn.shape == (240, 480, 3)
    red = (drawn == PALETTE[0]).all(2)
    ys, xs = np.nonzero(red[80:])  # below the caption
    assert np.abs([xs.min() - 40, xs.max() - 160, ys.min(), ys.max() - 100]).max() <= 1
    dashed = draw_boxes(large, one, [Box((100, 200, 300, 250), 1, 'dog', True)], legend)
    far = Box((-1e30, 200, float('inf'), float('nan')), 1, '', True)
    assert draw_boxes(large, one, [far], legend).any()
    left = (dashed[:, 40] == PALETTE[1]).all(1)[80:180]
    assert 30 < left.sum() < 70
    assert draw_boxes(large[:10, :10], image(size=(10, 10)), [], legend).shape == (400, 400, 3)
    assert draw_boxes(large[:, :30], image(size=(600, 30)), [], legend).shape == (720, 36, 3)


def test_masks_are_drawn():
    analysis = analyse_detections(made_images(DetectionMaker(3)), list(map(str, range(CLASSES))))
    legend = make_legend(analysis.classes)
    height, width = analysis.images[0].size
    black = np.zeros((height, width, 3), np.uint8)
    (box, *_) = boxes_of_truth(analysis, 0)
    with_mask = draw_boxes(black, analysis.images[0], [box], legend)
    without = draw_boxes(black, analysis.images[0], [Box(box.box, box.label, '', False)], legend)
    assert (with_mask.any(2).sum() - without.any(2).sum()) > 50


def test_many_boxes_have_no_captions():
    legend = make_legend(['cat'], PALETTE[:1])
    black = np.zeros((200, 400, 3), np.uint8)
    boxes = [Box((100, 100, 50, 50), 0, 'a long caption', False)]
    few, many = (
        draw_boxes(black, image(size=(200, 400)), boxes * n, legend).any(2) for n in (1, 16)
    )
    assert few[:95].any() and not many[:95].any()
