"""Reports in a real browser: they open without errors and network, filter, sort, and fit."""

import numpy as np
import pytest
from markupsafe import Markup
from matplotlib.figure import Figure
from support.browser import LOAD_SECONDS, NARROW, WIDE, Report, check_report
from support.training_records import EVIL, training_rows, write_run

from convnext_backbones.reports.page import (
    Card,
    Section,
    chart,
    diff_block,
    facts,
    gallery,
    picture,
    table,
    text_block,
    write_page,
)
from convnext_backbones.reports.training_page import write_training_page

MEGABYTES = 2**20
MOST_SECONDS = 10  # a test is no benchmark: the goal is 3 on an idle machine
# Names that would end an attribute, be a number, a selector or the first entry of a filter.
CLASSES = ('cat', EVIL, '"\'&<', ' 7  8 ', 'all classes', '#a[b]')


@pytest.fixture(scope='module')
def every_block(tmp_path_factory):
    """A page with each kind of block."""
    path = tmp_path_factory.mktemp('page') / 'report.html'
    figure = Figure((9, 3))
    figure.subplots().plot([1, 3, 2], label=EVIL)
    image = np.full((300, 1200, 3), 128, np.uint8)
    rows = [
        [f'{i}.jpg', CLASSES[i % 6], [3.0, None, -20.0, float('nan'), 100.0, 0.5][i % 6], 'x']
        for i in range(12)
    ]
    cards = [
        Card(f'{EVIL}{i}', [('truth', image), ('b', image)], ['c'], CLASSES[i : i + 2], group)
        for i, group in enumerate(['best', 'worst', 'best', ['new', 'worst']])
    ]
    long = 'a_long_word_without_spaces' * 20
    sections = [
        Section(EVIL, [facts({EVIL: long, 'b': 1})], long),
        Section(long, [table(['file', 'class', 'AP', long], rows, class_column=1)]),
        Section('b', [table(['other'], [[1]]), table(['none'], [])]),
        Section('c', [chart(figure, long), picture(image, long)]),
        Section('d', [gallery(cards), gallery([Card(long, [('a', image)])]), gallery([])]),
        Section('e', [text_block(long), diff_block(f'-{long}\n+{EVIL}')]),
    ]
    write_page(path, long, EVIL, sections, CLASSES)
    return path


def test_every_block_opens(browser, every_block):
    check_report(browser, every_block)


def test_the_class_filter_hides_rows_and_cards(browser, every_block):
    with Report(browser, every_block) as report:
        assert report.shown('table[data-filtered] tbody tr') == 12
        assert report.shown('.gallery >> nth=0 >> .card') == 4
        for index, name in enumerate(CLASSES):
            report.page.locator('#class-filter').select_option(index=index + 1)
            assert report.shown('table[data-filtered] tbody tr') == 2
            shown = report.page.locator('table[data-filtered] tbody tr:not([hidden])')
            assert shown.locator('td:nth-child(2)').all_text_contents() == [name] * 2
            expected = sum(name in CLASSES[i : i + 2] for i in range(4))
            assert report.shown('.gallery >> nth=0 >> .card') == expected
            # What has no class stays.
            assert report.shown('.gallery >> nth=1 >> .card') == 1
            assert report.shown('table >> nth=1 >> tbody tr') == 1
        report.page.locator('#class-filter').select_option(index=0)
        assert report.shown('table[data-filtered] tbody tr') == 12
        assert report.complaints == []


def test_the_group_filter_and_both_together(browser, every_block):
    with Report(browser, every_block) as report:
        first = report.page.locator('.gallery').first
        count, empty = first.locator('.count'), first.locator('.empty')
        first.locator('select').select_option(label='worst')
        assert report.shown('.gallery >> nth=0 >> .card') == 2
        assert count.inner_text() == '2 of 4 images'
        report.choose_class('cat')  # in the first card, which is one of the best
        assert report.shown('.gallery >> nth=0 >> .card') == 0
        assert empty.inner_text() == 'No image has the chosen class and group.'
        first.locator('select').select_option(index=0)
        assert count.inner_text() == '1 of 4 images' and not empty.is_visible()


def test_a_class_without_rows_is_said(browser, tmp_path):
    path = tmp_path / 'report.html'
    rows = Section('a', [table(['class'], [['cat']], class_column=0)])
    write_page(path, 'a', 'b', [rows], ['cat', 'dog'])
    with Report(browser, path) as report:
        report.choose_class('dog')
        empty = report.page.locator('.empty')
        assert empty.inner_text() == 'No row of this table has the chosen class.'
        assert report.shown('table') == 0
        report.choose_class('cat')
        assert report.shown('table') == 1 and not empty.is_visible()


def test_a_click_sorts(browser, every_block):
    with Report(browser, every_block) as report:
        numbers = report.page.locator('table >> nth=0 >> th >> nth=2')
        numbers.locator('button').click()
        down = ['100.0', '100.0', '3.0', '3.0', '0.5', '0.5', '-20.0', '-20.0', *['–'] * 4]
        assert report.column(2) == down
        assert numbers.get_attribute('aria-sort') == 'descending'
        numbers.locator('button').click()
        assert report.column(2) == [*down[7::-1], *['–'] * 4]
        names = report.page.locator('table >> nth=0 >> th >> nth=0')
        names.locator('button').click()
        # 2.jpg comes before 10.jpg.
        assert report.column(0) == [f'{i}.jpg' for i in range(12)]
        assert numbers.get_attribute('aria-sort') is None
        # Rows keep their class.
        report.choose_class('cat')
        shown = report.page.locator('table >> nth=0 >> tbody tr:not([hidden]) td:nth-child(1)')
        assert shown.all_inner_texts() == ['0.jpg', '6.jpg']


def test_a_card_is_enlarged(browser, every_block):
    for width in (WIDE, NARROW):
        with Report(browser, every_block, width) as report:
            image = report.page.locator('.card img').first
            before = image.bounding_box()['width']
            report.page.locator('.enlarge').first.click()
            assert image.bounding_box()['width'] > 1.8 * before
            report.page.locator('.enlarge').first.click()
            assert image.bounding_box()['width'] == before


FORBIDDEN = {
    'style': '<p style="color: red">a</p>',
    'script': '<script>document.title = "changed"</script>',
    'handler': '<img src="data:," onerror="document.title = 1">',
    'picture': '<img src="http://127.0.0.1:9/a.png">',
    'frame': '<iframe src="http://127.0.0.1:9/"></iframe>',
}


@pytest.mark.parametrize('kind', FORBIDDEN)
def test_the_policy_keeps_the_browser_from_anything_else(browser, tmp_path, kind):
    path = tmp_path / 'report.html'
    write_page(path, 'title', 'b', [Section('a', [Markup(FORBIDDEN[kind])])])
    with Report(browser, path) as report:
        report.page.wait_for_load_state('networkidle')
        assert any('Content Security Policy' in complaint for complaint in report.complaints)
        assert report.page.title() == 'title'


@pytest.mark.parametrize('names', [['a'], ['a', 'b'], ['a', 'b', 'empty', 'c']])
def test_training_pages_open(browser, tmp_path, names):
    for name in names:
        write_run(tmp_path / name, [] if name == 'empty' else training_rows())
    path = tmp_path / 'report.html'
    write_training_page(path, [tmp_path / name for name in names])
    check_report(browser, path)
    with Report(browser, path) as report:
        assert report.shown('.chart svg') >= 6
        assert report.page.locator('h2').all_inner_texts()[:2] == ['Overview', 'Losses']


def test_5000_images_stay_small_and_open_quickly(browser, tmp_path):
    path = tmp_path / 'report.html'
    classes = [f'class {i}' for i in range(80)]
    random = np.random.default_rng(0)
    rows = [
        [f'images/validation/{i:012}.jpg', classes[i % 80], *random.random(6)] for i in range(5000)
    ]
    columns = ['image', 'class', *(f'value {i}' for i in range(6))]
    # Smooth noise takes about as many bytes as a photograph.
    coarse = random.integers(0, 255, (60, 100, 3), np.uint8)
    image = coarse.repeat(8, 0).repeat(8, 1)
    cards = [
        Card(f'{i}.jpg', [('truth', image), ('prediction', image)], classes=classes[i : i + 3])
        for i in range(60)
    ]
    parts = [table(columns, rows, class_column=1), gallery(cards)]
    write_page(path, 'many', 'images', [Section('a', parts)], classes)
    assert path.stat().st_size < 50 * MEGABYTES
    check_report(browser, path)
    with Report(browser, path) as report:
        assert report.page.evaluate(LOAD_SECONDS) < MOST_SECONDS
        report.choose_class('class 7')
        assert report.shown('tbody tr') == 63
