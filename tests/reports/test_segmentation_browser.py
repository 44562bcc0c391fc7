"""Reports about segmentors, and comparisons, in a browser."""

import numpy as np
import pytest
from support.browser import NARROW, WIDE, Report, check_report

from convnext_backbones.analysis import segmentation_changes as changed
from convnext_backbones.analysis.segmentation_choice import choose_images
from convnext_backbones.analysis.segmentations import SegmentationCounter
from convnext_backbones.reports import segmentation_changes_page as changes_page
from convnext_backbones.reports.segmentation_page import write_segmentation_page
from convnext_backbones.reports.segmentation_pictures import make_legend, segmentation_card

CLASSES = ('sky', 'sea', 'ship with a long name', '<b>&"\'')
LEGEND = make_legend(CLASSES)


def some_maps(count=14):
    """True and two predicted label maps; the last class is in the first pair only."""
    rng = np.random.default_rng(0)
    for number in range(count):
        truth = np.kron(rng.integers(0, 3, (4, 5)), np.ones((12, 16), np.int64))
        maps = [np.where(rng.random(truth.shape) < 0.1, 1, truth) for _ in range(2)]
        if number == 0:
            truth[:9] = maps[1][:5] = 3
        yield truth, *maps


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    counter = SegmentationCounter(CLASSES)
    maps = list(some_maps())
    for number, (truth, _, predicted) in enumerate(maps):
        counter.add(f'{number}.jpg', truth, predicted)
    analysis = counter.analysis()
    image = np.full((48, 80, 3), 120, np.uint8)
    cards = [
        segmentation_card(analysis.images[i], group, image, maps[i][0], maps[i][2], LEGEND, 255)
        for i, group in choose_images(analysis).items()
    ]
    path = tmp_path_factory.mktemp('segmentation') / 'report.html'
    write_segmentation_page(path, analysis, cards, LEGEND, {'mIoU': 50.0}, {'command': 'x ' * 99})
    return path


@pytest.fixture(scope='module')
def changes(tmp_path_factory):
    counter = changed.SegmentationChangeCounter(CLASSES, with_truth=True)
    cards = []
    for number, (truth, a, b) in enumerate(some_maps()):
        change = counter.add(f'{number}.jpg', a, b, truth)
        cards.append(changes_page.changes_card(change, a, b, truth, None, LEGEND, 255))
    path = tmp_path_factory.mktemp('changes') / 'changes.html'
    changes_page.write_segmentation_changes_page(path, counter.changes(), cards, LEGEND, {})
    return path


def test_the_report_opens_without_errors(browser, report):
    check_report(browser, report)


def test_the_comparison_opens_without_errors(browser, changes):
    check_report(browser, changes)


@pytest.mark.parametrize('width', [WIDE, NARROW])
def test_the_class_filter_hides_rows_and_images(browser, report, width):
    with Report(browser, report, width) as page:
        before = page.shown('.card')
        page.choose_class(CLASSES[3])
        assert page.shown('.card') == 1 and before == 14
        assert page.column(0, 'table[data-filtered]')[3] == CLASSES[3]
        assert page.shown('table[data-filtered] >> nth=0 >> tbody tr') == 1


def test_the_group_filter_shows_the_best(browser, report):
    with Report(browser, report) as page:
        page.page.get_by_label('Group of images').select_option(label='best')
        assert page.shown('.card') == 3


def test_the_comparison_is_filtered_by_what_became_of_images(browser, changes):
    with Report(browser, changes) as page:
        total = page.shown('.card')
        page.page.get_by_label('Group of images').select_option(label='better')
        better = page.shown('.card')
        page.page.get_by_label('Group of images').select_option(label='worse')
        assert 0 < better < total and 0 < page.shown('.card') < total
