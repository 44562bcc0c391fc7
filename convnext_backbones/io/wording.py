"""Wording shared by messages of all rooms."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

# Names that a message spells out before it only counts them.
SHOWN = 3


def first_names(names: Iterable[object], shown: int = SHOWN, quoted: bool = False) -> str:
    """Return the first names for a sentence: ``a, b, c and 5 more``, or ``none``.

    Names may come from files, so line breaks and other control characters in them are escaped:
    the sentence stays on one line.

    Args:
        names: Names of any type; other objects are spelled as ``str`` does.
        shown: Number of names to spell out.
        quoted: Put each name in quotation marks, for names that may contain spaces.
    """
    texts = [repr(str(name)) for name in names]
    if not texts:
        return 'none'
    if not quoted:
        texts = [text[1:-1] for text in texts]
    rest = f' and {len(texts) - shown} more' if len(texts) > shown else ''
    return ', '.join(texts[:shown]) + rest


def address(url: str) -> str:
    """Return a URL without its query, which in a signed link is a password, for messages."""
    return urlsplit(url)._replace(query='').geturl()
