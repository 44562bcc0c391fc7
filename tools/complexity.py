"""Parameters and multiply-adds of models beside the paper's: tools/complexity.py [CONFIG ...].

Without CONFIG, the thirteen published experiments at the paper's image sizes. Neither data, weights
nor a GPU are needed.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from convnext_backbones.benchmark.complexity import (
    CONVENTION,
    Cost,
    build_classifier,
    measure,
    replace_backbone,
)
from convnext_backbones.benchmark.paper import CLASSIFIERS, COMPARATORS, PAPER_MODELS
from convnext_backbones.config.loading import load_config
from convnext_backbones.engine.build import build_on_meta
from convnext_backbones.experiments import EXPERIMENTS
from convnext_backbones.io.files import write_atomically

CONFIGS = Path(__file__).parent.parent / 'configs'
FORMATS = ('table', 'json', 'markdown')
WIDTH = 160  # of the text; no table is that wide, and none is broken at the terminal's width


def find_models(query: str) -> list[str]:
    """The models that an argument means: a config file, a published model, or a comparator.

    Raises:
        ValueError: There is none.
    """
    if query.endswith('.py') or query in PAPER_MODELS:
        return [query]
    # `swin_t` is every model with this backbone, whatever its heads.
    matches = [name for name in COMPARATORS if f'_{query}_' in f'{name}_']
    if not matches:
        close = difflib.get_close_matches(query, PAPER_MODELS, n=1, cutoff=0.4)
        hint = f'did you mean {close[0]!r}?' if close else 'a config file ends with .py'
        raise ValueError(f'expected a config file or a model of the paper, got {query!r}; {hint}')
    return matches


def build(model: str) -> nn.Module:
    """A model of :func:`find_models` on the meta device.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: The config cannot be read, or is not one of mmdet or mmseg.
    """
    if model in CLASSIFIERS:
        return build_classifier(CLASSIFIERS[model].arch)
    if model in COMPARATORS:
        comparator = COMPARATORS[model]
        cfg = _read_config(CONFIGS / f'{comparator.experiment}.py')
        return build_on_meta(replace_backbone(cfg, comparator.backbone))
    return build_on_meta(
        _read_config(CONFIGS / f'{model}.py' if model in EXPERIMENTS else Path(model))
    )


def _read_config(path: Path):
    return load_config(path)


def as_table(costs: Sequence[Cost], breakdown: bool, style: box.Box) -> Table:
    """One row per model, and one per part with ``breakdown``."""
    table = Table(box=style)
    table.add_column('model', no_wrap=True)
    for heading in ('image', 'params, M', 'paper', 'ratio', 'GMACs', 'paper', 'ratio'):
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
            table.add_row(
                f'- {part.name}',
                '',
                f'{part.params / 1e6:.2f}',
                '',
                '',
                f'{part.macs / 1e9:.2f}',
                end_section=part is cost.parts[-1],
            )
    return table


def _or_blank(value: float | None, spec: str) -> str:
    return '' if value is None else format(value, spec)


def as_dict(cost: Cost) -> dict:
    """The same as data, with all parts."""
    totals = dict(
        params=cost.params,
        macs=cost.macs,
        params_ratio=cost.params_ratio,
        macs_ratio=cost.macs_ratio,
    )
    return {**asdict(cost), **totals}


def render(costs: Sequence[Cost], form: str, breakdown: bool) -> str:
    """The text of a report in one of :data:`FORMATS`."""
    if form == 'json':
        report = dict(convention=CONVENTION, models=[as_dict(cost) for cost in costs])
        return json.dumps(report, indent=1)
    table = as_table(costs, breakdown, box.MARKDOWN if form == 'markdown' else box.SIMPLE_HEAD)
    notes = dict.fromkeys(cost.note for cost in costs if cost.note)
    table.caption = ' '.join([CONVENTION, *notes])
    table.caption_justify = 'left'
    text = io.StringIO()
    Console(file=text, width=WIDTH).print(table)
    return '\n'.join(line.rstrip() for line in text.getvalue().splitlines()).strip('\n')


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'models',
        nargs='*',
        metavar='CONFIG',
        help='config of a two-stage detector of mmdet or an encoder-decoder of mmseg, or a name: '
        'upernet_convnext_t, upernet_swin_t, swin_t (in all heads), convnext_tiny_384 (ImageNet)',
    )
    parser.add_argument(
        '--comparators', action='store_true', help="add the paper's Swin, ResNet and ResNeXt"
    )
    parser.add_argument(
        '--imagenet', action='store_true', help='add the ImageNet classifiers at 224 and 384'
    )
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help="size of the image as the network gets it, padding included; by default the paper's",
    )
    parser.add_argument('--breakdown', action='store_true', help='add a row for each part')
    parser.add_argument('--format', choices=FORMATS, default='table', help='json has all parts')
    parser.add_argument('--out', type=Path, metavar='FILE', help='write to FILE')
    args = parser.parse_args(argv)
    shape = tuple(args.shape) if args.shape else None
    # What OpenMMLab's packages warn of concerns training.
    warnings.filterwarnings('ignore', module=r'mm(seg|det|cv|engine)\.')
    try:
        models = [model for query in args.models for model in find_models(query)]
        models = models or list(EXPERIMENTS)
        models += list(COMPARATORS) if args.comparators else []
        models += list(CLASSIFIERS) if args.imagenet else []
        progress = track(
            dict.fromkeys(models),  # each once
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        costs = [measure(Path(model).stem, build(model), shape) for model in progress]
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'complexity: {error}')
    text = render(costs, args.format, args.breakdown)
    if args.out is None:
        print(text)
        return
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, f'{text}\n')
    print(f'{len(costs)} models are in {args.out}')


if __name__ == '__main__':
    main()
