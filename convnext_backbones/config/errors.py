"""Turn whatever a wrong config entry makes other packages raise into one sentence."""

from __future__ import annotations

import textwrap
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def config_errors(over: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Make a ValueError of whatever a wrong entry of a config lets other packages raise.

    An unknown type is a KeyError of mmengine, an unknown argument a TypeError, a wrong value often
    an AttributeError or a bare assertion. The message has one line and names the place; what was
    raised is its cause. FileNotFoundError and ValueError pass.

    Args:
        over: Says when the config has been used, and what is raised is no matter of it any more.
    """
    try:
        yield
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:
        if over():
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        detail = textwrap.shorten(str(error), 400) or 'no detail'
        raise ValueError(
            f'cannot set up what the config and its overrides ask for: {type(error).__name__}: '
            f'{detail} (raised in {place.filename}, line {place.lineno}); check the entries that '
            'this is about'
        ) from error
