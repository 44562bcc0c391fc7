"""Turn errors that a config causes in other packages into one sentence; keep their tracebacks."""

from __future__ import annotations

import logging
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from mmengine.logging import MMLogger

PACKAGE = str(Path(__file__).parents[1])
MOST_CHARACTERS = 400  # of the other package's message


class ConfigError(ValueError):
    """A config entry has caused an exception of another package, which is the cause of this one."""


@contextmanager
def config_errors(finished: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turn any exception that a wrong config entry causes in another package into a ConfigError.

    An unknown type is a KeyError of mmengine, an unknown argument a TypeError, a wrong value often
    an AttributeError or a bare assertion, and a user's own dataset raises anything. The message is
    one line and names the place in the code; the original exception is its cause.
    FileNotFoundError and the ValueErrors of this package pass unchanged.

    Args:
        finished: Returns True once the config is fully used; later exceptions pass unchanged.

    Raises:
        ConfigError: The config causes an exception.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        is_ours = isinstance(error, ValueError) and place.filename.startswith(PACKAGE)
        if is_ours or finished():
            raise
        detail = textwrap.shorten(str(error), MOST_CHARACTERS) or 'no detail'
        raise ConfigError(
            f'cannot set up what the config and its overrides ask for: {type(error).__name__}: '
            f'{detail} (raised in {place.filename}, line {place.lineno}); correct the entries that '
            'this refers to'
        ) from error


def exit_with(
    tool: str, error: Exception, show_traceback: bool, sentence: str | None = None
) -> NoReturn:
    """End a command with exit status 1 and one sentence, and keep the traceback.

    The traceback goes into the log file of the run, if there is one, at level DEBUG. The sentence
    of a :class:`ConfigError` ends with where to find the traceback; other errors need none.

    Args:
        tool: Name of the command, with which the sentence begins.
        error: What ended the command.
        show_traceback: Print the traceback before the sentence.
        sentence: Used in place of the error's own message.
    """
    text = ''.join(traceback.format_exception(error))
    log = _log_traceback(text)
    hint = ''
    if show_traceback:
        print(text, file=sys.stderr)
    elif isinstance(error, ConfigError):
        hint = f'; the traceback is in {log}' if log else '; --traceback prints the traceback'
    sys.exit(f'{tool}: {sentence or error}{hint}')


def _log_traceback(text: str) -> str | None:
    """Write a traceback into the log file of the current run, and return the file's path."""
    logger = MMLogger.get_current_instance()
    files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    record = logger.makeRecord(logger.name, logging.DEBUG, __file__, 0, text, (), None)
    for handler in files:
        handler.handle(record)  # directly: the level of the log is usually INFO
    return files[-1].baseFilename if files else None
