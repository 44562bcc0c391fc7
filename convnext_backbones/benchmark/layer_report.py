"""Report the layers of models as tables, as Markdown or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.table import Table

from .layers import Layer, LayerTable
from .tables import as_text


def layer_table(layers: Sequence[Layer], style: box.Box) -> Table:
    """Return a table with a row per layer, and Keras' names in a column if there are any."""
    table = Table(box=style)
    with_keras = any(layer.keras for layer in layers)
    table.add_column('layer', no_wrap=True)
    if with_keras:
        table.add_column('in Keras', no_wrap=True)
    table.add_column('type')
    table.add_column('output')
    table.add_column('parameters', justify='right')
    for layer in layers:
        names = (layer.name, layer.keras) if with_keras else (layer.name,)
        table.add_row(*names, layer.kind, _output(layer), f'{layer.params:,}')
    return table


def _output(layer: Layer) -> str:
    """Return the shape of the output, and how often there is one."""
    if layer.shape is None:
        return ''
    shape = ' x '.join(map(str, layer.shape))
    return shape if layer.calls == 1 else f'{shape}, the first of {layer.calls}'


def totals(table: LayerTable) -> str:
    """Return the sums of the parameters in words."""
    return (
        f'Parameters: {table.params:,}. Trainable: {table.trainable:,}. '
        f'Not trainable: {table.params - table.trainable:,}.'
    )


def render_layers(tables: Sequence[LayerTable], form: str) -> str:
    """Return the text of a report.

    Args:
        tables: The layers of the models.
        form: One of :data:`~.cost_report.FORMATS`.
    """
    if form == 'json':
        models = [
            {**asdict(table), 'params': table.params, 'trainable': table.trainable}
            for table in tables
        ]
        return json.dumps(dict(models=models), indent=1)
    style = box.MARKDOWN if form == 'markdown' else box.SIMPLE_HEAD
    return '\n\n'.join(
        '\n\n'.join(
            (
                '{}, image of {} x {}'.format(table.name, *table.input_shape),
                as_text(layer_table(table.layers, style)),
                totals(table),
            )
        )
        for table in tables
    )
