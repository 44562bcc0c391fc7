"""The report of a detector in a real browser."""

import numpy as np
import pytest
from support.browser import Report, check_report
from support.detection_images import image

from convnext_backbones.analysis.detections import analyse_detections
from convnext_backbones.reports.detection_page import write_detection_page

NAMES = ('cat', '<b>"dog"</b>', 'unseen')
LEFT, RIGHT = (10, 10, 40, 40), (110, 10, 40, 40)


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    """Images with a cat, with a dog, and with both; three of each, of which one is bad."""
    images = []
    for label, rows in enumerate([[(0, *LEFT)], [(1, *RIGHT)], [(0, *LEFT), (1, *RIGHT)]]):
        for i in range(3):
            found = [(*row, 0.9 - 0.1 * i) for row in rows if i]
            images.append(image(rows, found, f'{label}{i}.jpg'))
    analysis = analyse_detections(images, NAMES)
    path = tmp_path_factory.mktemp('page') / 'report.html'
    picture = np.full((100, 200, 3), 200, np.uint8)
    origin = dict(command='tools/test.py ' + 'a/long/path/' * 30)
    write_detection_page(path, analysis, lambda i: picture, metrics={'mAP': 0.5}, origin=origin)
    return path


def test_it_opens(browser, page):
    check_report(browser, page)


def test_the_filters(browser, page):
    with Report(browser, page) as report:
        cards = report.shown('.card')
        assert cards == 9
        for name, number in zip(NAMES, (6, 6, 0), strict=True):
            report.choose_class(name)
            assert report.shown('.card') == number
            assert report.column(0)[0] and report.shown('table >> nth=0 >> tbody tr') == 1
        report.choose_class('all classes')
        assert report.shown('.card') == cards
        report.page.locator('.gallery select, [data-gallery] select').first.select_option(
            label='worst'
        )
        assert report.shown('.card') == 3
        assert report.complaints == []


def test_the_table_of_images_sorts(browser, page):
    with Report(browser, page) as report:
        table = report.page.locator('section', has=report.page.locator('h2', has_text='All images'))
        table.locator('th', has_text='correct').click()
        table.locator('th', has_text='correct').click()
        cells = table.locator('tbody tr td:nth-child(4)').all_inner_texts()
        assert cells == sorted(cells, reverse=True) or cells == sorted(cells)
        assert report.complaints == []
