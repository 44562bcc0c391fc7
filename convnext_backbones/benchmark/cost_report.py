"""Report the costs of models as a table, as Markdown or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from .complexity import CONVENTION, Cost
from .tables import as_text

FORMATS = ('table', 'json', 'markdown')
WIDTH = 160  # of the text; no table is wider, whatever the width of the terminal
HEADINGS = ('image', 'params, M', 'paper', 'ratio', 'GMACs', 'paper', 'ratio')


def cost_table(costs: Sequence[Cost], breakdown: bool, style: box.Box) -> Table:
    """Return a table with a row per model, and a row per part if ``breakdown`` is set."""
    table = Table(box=style)
    table.add_column('model', no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify='right')
    for cost in costs:
        table.add_row(
            cost.name,
            '{} x {}'.format(*cost.input_shape),
            f'{cost.params / 1e6:.2f}',
            _or_blank(cost.paper_params, 'g'),
            _or_blank(cost.params_ratio, '.4f'),
            f'{cost.macs / 1e9:.2f}',
            _or_blank(cost.paper_gmacs, 'g'),
            _or_blank(cost.macs_ratio, '.4f'),
        )
        for part in cost.parts if breakdown else ():
            params, macs = f'{part.params / 1e6:.2f}', f'{part.macs / 1e9:.2f}'
            last = part is cost.parts[-1]
            table.add_row(f'- {part.name}', '', params, '', '', macs, end_section=last)
    return table


def _or_blank(value: float | None, spec: str) -> str:
    return '' if value is None else format(value, spec)


def cost_data(cost: Cost) -> dict[str, Any]:
    """Return a cost as data for JSON, with all parts."""
    totals = dict(
        params=cost.params,
        macs=cost.macs,
        params_ratio=cost.params_ratio,
        macs_ratio=cost.macs_ratio,
    )
    return {**asdict(cost), **totals}


def render(costs: Sequence[Cost], form: str, breakdown: bool) -> str:
    """Return the text of a report.

    Args:
        costs: The costs of the models.
        form: One of :data:`FORMATS`.
        breakdown: Whether the tables have a row for each part; JSON always has all parts.
    """
    if form == 'json':
        report = dict(convention=CONVENTION, models=[cost_data(cost) for cost in costs])
        return json.dumps(report, indent=1)
    table = cost_table(costs, breakdown, box.MARKDOWN if form == 'markdown' else box.SIMPLE_HEAD)
    notes = dict.fromkeys(cost.note for cost in costs if cost.note)
    table.caption = ' '.join([CONVENTION, *notes])
    table.caption_justify = 'left'
    return as_text(table, WIDTH)
