"""Opening a report in Chromium, and what has to hold for every report."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WIDE, NARROW = 1280, 360  # widths of the window, in CSS pixels; the second is a small phone
NAMES = ('chromium', 'chromium-browser', 'google-chrome')
HOW_TO_INSTALL = (
    'expected Chromium and Playwright to open reports with: apt-get install chromium, and '
    'pip install playwright'
)
# Scrolls to each picture, and waits until it is decoded.
LOAD_PICTURES = """async () => {
    for (const picture of document.images) {
        picture.scrollIntoView();
        await picture.decode();
    }
    return Array.from(document.images, (picture) => picture.naturalWidth);
}"""
LOAD_SECONDS = "performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"


@contextmanager
def start_browser() -> Iterator:
    """A headless browser; None if Chromium or Playwright is not there."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program = None
    if program is None:
        yield None
        return
    with sync_playwright() as playwright:
        # Chromium does not start as root, as in a container, without this flag.
        browser = playwright.chromium.launch(executable_path=program, args=['--no-sandbox'])
        yield browser
        browser.close()


class Report:
    """A report in a window of the browser.

    Args:
        browser: From the fixture ``browser``.
        path: The HTML file.
        width: Of the window, in CSS pixels.
        scheme: ``'light'`` or ``'dark'``.

    Attributes:
        page: Playwright's page.
        complaints: Messages of the console, errors of the script, and requests for anything but
            the file itself and data in it.
    """

    def __init__(self, browser, path: Path, width: int = WIDE, scheme: str = 'light') -> None:
        viewport = dict(width=width, height=800)
        self.complaints: list[str] = []
        self.page = browser.new_page(viewport=viewport, color_scheme=scheme)
        self.page.on('console', lambda message: self.complaints.append(message.text))
        self.page.on('pageerror', lambda error: self.complaints.append(str(error)))
        self.page.on('request', self._note)
        self.address = path.resolve().as_uri()
        self.page.goto(self.address)

    def __enter__(self) -> 'Report':
        return self

    def __exit__(self, *error) -> None:
        self.page.close()

    def _note(self, request) -> None:
        if request.url != self.address and not request.url.startswith('data:'):
            self.complaints.append(f'request for {request.url}')

    def shown(self, selector: str) -> int:
        """How many elements of a kind can be seen."""
        return self.page.locator(selector).locator('visible=true').count()

    def choose_class(self, name: str) -> None:
        """Choose a class in the filter of the page."""
        self.page.locator('#class-filter').select_option(label=name)

    def column(self, index: int, table: str = 'table') -> list[str]:
        """The texts of a column of the first such table, from top to bottom."""
        return (
            self.page.locator(f'{table} >> nth=0')
            .locator(f'tbody tr td:nth-child({index + 1})')
            .all_inner_texts()
        )


def check_report(browser, path: Path) -> None:
    """What holds for every report: no errors, no network, pictures that load, no overflow."""
    for width, scheme in ((WIDE, 'light'), (NARROW, 'dark')):
        with Report(browser, path, width, scheme) as report:
            widths = report.page.evaluate(LOAD_PICTURES)
            assert all(width > 0 for width in widths), widths
            overflow = report.page.evaluate(
                'document.documentElement.scrollWidth - document.documentElement.clientWidth'
            )
            assert overflow <= 0, f'{overflow} pixels at a width of {width}'
            for link in report.page.locator('.contents a').all():
                target = link.get_attribute('href')
                assert report.page.locator(f'section{target}').count() == 1
            assert report.complaints == []
