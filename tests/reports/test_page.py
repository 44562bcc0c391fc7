"""The blocks of a page: what is escaped, how numbers are written, what the page allows."""

import base64
import hashlib
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from convnext_backbones.reports.page import (
    LONGEST_SIDE,
    TALL_ROWS,
    Card,
    Section,
    chart,
    diff_block,
    facts,
    gallery,
    picture,
    table,
    text,
    text_block,
    write_page,
)

EVIL = '</script><script>alert(1)</script>&"\'{{ 7 * 7 }}'
IMAGE = np.zeros((4, 6, 3), np.uint8)


def cells(block: Markup) -> list[str]:
    return re.findall(r'<td[^>]*>(.*?)</td>', block)


def curve(*values: float) -> Figure:
    figure = Figure((4, 3))
    figure.subplots().plot(values)
    return figure


@pytest.mark.parametrize(
    'block',
    [
        text(EVIL),
        text_block(EVIL),
        diff_block(f'+{EVIL}\n-{EVIL}\n{EVIL}'),
        facts({EVIL: EVIL}),
        table([EVIL], [[EVIL]], class_column=0),
        chart(curve(1, 2), EVIL),
        picture(IMAGE, EVIL),
        gallery([Card(EVIL, [(EVIL, IMAGE)], [EVIL], [EVIL], group) for group in (EVIL, '<b>')]),
    ],
    ids=['text', 'text_block', 'diff', 'facts', 'table', 'chart', 'picture', 'gallery'],
)
def test_text_is_escaped(block):
    assert isinstance(block, Markup)
    assert '<script' not in block and '</script' not in block and '<b>' not in block
    assert '{{ 7 * 7 }}' in block
    # An attribute does not end early.
    assert not re.search(r'alert\(1\)[^"<>]*&?"\'', block)


def test_the_page_escapes_titles_notes_and_classes(tmp_path):
    path = tmp_path / 'report.html'
    write_page(path, EVIL, EVIL, [Section(EVIL, [text('a')], EVIL)], [EVIL])
    assert path.read_text().count('<script>') == 1  # ours
    # title, h1, subtitle, contents, h2, note, and twice in the filter
    assert path.read_text().count('alert(1)') == 8


def test_markup_in_cells_and_facts_stays():
    bold = Markup('<b>x</b>')
    assert bold in table(['a'], [[bold]]) and bold in facts(dict(a=bold))


def test_numbers_are_rounded_and_missing_ones_are_a_dash():
    block = table(
        ['a', 'b', 'c'],
        [
            ['x', 0.25, 1234567],
            [True, np.float32(41.26), np.int64(7)],
            [None, float('nan'), None],
            [np.bool_(False), -1234.56, 0],
        ],
    )
    shown = ['x', '0.2', '1,234,567', 'yes', '41.3', '7', '–', '–', '–', 'no', '-1,234.6', '0']
    assert cells(block) == shown
    # Sorting uses the number itself; columns of numbers stand at the right.
    assert 'data-value="0.25"' in block and 'data-value="1234567.0"' in block
    assert block.count('<th scope="col" class="number">') == 2
    assert '<td class="missing">–</td>' in block and '<td class="number missing">–</td>' in block
    assert cells(table(['a'], [[0.123456]], digits=3)) == ['0.123']
    assert 'data-value="-Infinity"' in table(['a'], [[float('-inf')]])


def test_facts_have_significant_digits():
    block = facts(dict(a=0.000123456789, b=12345, c=None, d=float('nan'), e=False))
    values = re.findall('<dd>(.*?)</dd>', block)
    assert values == ['0.000123457', '12,345', '–', '–', 'no']


def test_a_table_without_rows_says_so():
    assert 'This table has no rows.' in table(['a'], [])
    assert 'hidden' not in table(['a'], [])
    assert 'There are no images to show.' in gallery([])


def test_long_tables_scroll_in_their_own_box():
    assert 'tall' in table(['a'], [[1]] * (TALL_ROWS + 1))
    assert 'tall' not in table(['a'], [[1]] * TALL_ROWS)


def test_pictures_keep_their_content_and_are_reduced():
    gradient = np.linspace(0, 255, 2000, dtype=np.uint8)
    image = np.stack([np.tile(gradient, (1000, 1))] * 3, -1)
    block = picture(image, 'a gradient')
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', block)
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert read.shape == (LONGEST_SIDE // 2, LONGEST_SIDE, 3)
    assert np.abs(read[0, ::200, 0].astype(int) - gradient[::500]).max() < 4
    assert 'loading="lazy" decoding="async" width="2000" height="1000"' in block


def test_small_pictures_are_not_enlarged():
    (data,) = re.findall(r'base64,([^"]+)"', picture(IMAGE, 'black'))
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (6, 4)


def test_galleries_offer_groups_where_there_are_several():
    cards = [Card('a', [], group='best'), Card('b', [], group='worst'), Card('c', [])]
    assert '<option value="best">best</option><option value="worst">worst</option>' in gallery(
        cards
    )
    assert '(best, worst)' in gallery([Card('a', [], group=['best', 'worst'])])
    assert '<select' not in gallery(cards[:1])
    assert 'data-classes' not in gallery(cards)
    assert gallery([*cards, Card('d', [], classes=['x'])]).count('data-classes') == 4


def test_charts_have_no_style_and_ids_of_their_own():
    def drawn(*values: float) -> Markup:
        return chart(curve(*values), 'numbers')

    one, other = drawn(1, 2), drawn(2, 1)
    assert one == drawn(1, 2)  # nothing depends on the time or on chance
    for block in (one, other):
        assert ' style=' not in block and '<style' not in block and 'xmlns' not in block
        assert 'stroke="#1f77b4"' in block and 'aria-label="numbers"' in block
    ids, others = (set(re.findall(r' id="([^"]+)"', block)) for block in (one, other))
    assert ids and not ids & others
    for block, own in ((one, ids), (other, others)):
        used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', block)
        assert {first or second for first, second in used} == own


def test_black_and_white_follow_the_colors_of_the_page():
    figure = curve(1, 2)
    figure.axes[0].legend(['a'])
    figure.axes[0].text(0, 1, 'on a dark area', color='white')
    block = chart(figure, 'a')
    root = ElementTree.fromstring(re.search('<svg.*</svg>', block, re.DOTALL)[0])
    assert '#000000' not in block
    white = [element for element in root.iter() if element.get('fill') == '#ffffff']
    assert {element.tag: element.get('class') for element in white} == dict(path='paper', text=None)


def test_names_are_no_formulas_but_ticks_are():
    figure = Figure((4, 3))
    ax = figure.subplots()
    ax.semilogy([1, 1000], label='$a$^{$')
    ax.set_xticks([0, 1], ['$b$', '\\broken{$x$'])
    ax.set_title('$c_$')
    ax.set_xlabel('a\x08b')  # which XML does not allow
    ax.legend()
    block = chart(figure, 'a')
    for name in ('$a$^{$', '$b$', '\\broken{$x$', '$c_$'):
        assert f'>{name}</text>' in block
    assert 'mathdefault' not in block and '>a\ufffdb</text>' in block


def test_the_policy_allows_the_own_style_and_script_only(tmp_path):
    path = tmp_path / 'report.html'
    write_page(path, 'a', 'b', [Section('c', [picture(IMAGE, 'd')])])
    page = path.read_text()
    policy = page.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    for kind in ('style', 'script'):
        content = page.partition(f'<{kind}>')[2].partition(f'</{kind}>')[0]
        hashed = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f'{kind}-src &#39;sha256-{hashed}&#39;;' in policy
    assert policy.startswith('default-src &#39;none&#39;;') and 'img-src data:;' in policy
    assert 'unsafe' not in policy and 'http' not in policy
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert list(tmp_path.iterdir()) == [path]
