"""A browser for the pages of reports; tests/support/browser.py has what the tests do with it."""

import os
from collections.abc import Iterator

import pytest
from support.browser import HOW_TO_INSTALL, start_browser


@pytest.fixture(scope='session')
def browser() -> Iterator:
    """Chromium, driven by Playwright; skips without it, but fails in CI."""
    with start_browser() as started:
        if started is None:
            (pytest.fail if os.environ.get('CI') else pytest.skip)(HOW_TO_INSTALL)
        yield started
