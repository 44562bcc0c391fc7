"""Charts of matplotlib as SVG inside a page: without inline style, readable in the dark."""

from __future__ import annotations

import hashlib
import io
import re
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter

BLACK, WHITE = '#000000', '#ffffff'
# Control characters, and halves of pairs.
NOT_IN_XML = re.compile(r'[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]')
REFERENCE = re.compile(r'url\(#(.+)\)')
# What the page sets for all charts, or what no browser needs.
DROPPED_STYLES = ('font-family',)
DROPPED_ELEMENTS = ('metadata', 'style')


def inline_svg(figure: Figure, description: str) -> Markup:
    """Return a figure as an ``<svg>`` element.

    Black becomes the color of the page's text, and white areas that of its background, so that the
    chart can be read in light and in dark mode. Text on colored areas should therefore be almost
    black, such as ``'#111111'``; white text stays white.

    Args:
        figure: The figure. Dollar signs in its texts stay as they are; they begin no formula.
        description: What the chart shows, for those who do not see it.
    """
    _read_no_formulas(figure)
    for text in figure.findobj(Text):
        text.set_text(NOT_IN_XML.sub('\N{REPLACEMENT CHARACTER}', text.get_text()))
    drawn = io.StringIO()
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': description}):
        figure.savefig(drawn, format='svg', transparent=True, metadata=dict(Date=None))
    root = ElementTree.fromstring(drawn.getvalue())
    for element in root.iter():
        _make_plain(element)
    _make_ids_unique(root, hashlib.sha256((description + drawn.getvalue()).encode()).hexdigest())
    root.attrib |= {'role': 'img', 'aria-label': description, 'fill': 'currentColor'}
    root.attrib |= {'stroke-linejoin': 'round'}  # of the style sheet that is dropped
    return Markup(ElementTree.tostring(root, encoding='unicode'))


def _read_no_formulas(figure: Figure) -> None:
    """Keep names with dollar signs as they are; ticks of a logarithmic axis are formulas."""
    kept: set[int] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = axis.get_ticklabels(which='both')  # makes all that the drawing uses
            if isinstance(axis.get_major_formatter(), LogFormatter):
                kept.update(map(id, labels))
    for text in figure.findobj(Text):
        if id(text) not in kept:
            text.set_parse_math(False)


def _make_plain(element: ElementTree.Element) -> None:
    """Turn styles into attributes, which the page's security policy allows, and drop namespaces."""
    element.tag = element.tag.rpartition('}')[2]
    for child in list(element):
        if child.tag.rpartition('}')[2] in DROPPED_ELEMENTS:
            element.remove(child)
    for name in list(element.attrib):
        element.set(name.rpartition('}')[2], element.attrib.pop(name))
    for declaration in filter(None, element.attrib.pop('style', '').split(';')):
        name, _, value = (part.strip() for part in declaration.partition(':'))
        if name not in DROPPED_STYLES:
            element.set(name, 'currentColor' if value == BLACK else value)
    if element.get('fill') == WHITE and element.tag != 'text':
        element.set('class', 'paper')


def _make_ids_unique(root: ElementTree.Element, prefix: str) -> None:
    """Drop the ids to which nothing refers, and begin the others with a prefix of this chart."""
    places = [
        (element, name, found[1] if found else value[1:])
        for element in root.iter()
        for name, value in element.attrib.items()
        if (found := REFERENCE.fullmatch(value)) or (name == 'href' and value.startswith('#'))
    ]
    used = {target for _, _, target in places}
    for element in root.iter():
        name = element.attrib.pop('id', None)
        if name in used:
            element.set('id', f'c{prefix[:12]}-{name}')
    for element, name, target in places:
        element.set(name, element.attrib[name].replace(f'#{target}', f'#c{prefix[:12]}-{target}'))
