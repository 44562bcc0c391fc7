"""Published weights: ``python -m convnext_backbones.weights list``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table

from .published import PUBLISHED, PublishedWeights

PROGRAM = 'python -m convnext_backbones.weights'
WIDTH = 400  # more than any row needs


def list_weights(args: argparse.Namespace) -> None:
    """Print the table of published weights, or JSON.

    Raises:
        ValueError: There are none of that family.
    """
    families = sorted({one.family for one in PUBLISHED.values()})
    wanted = {family.lower() for family in args.family or families}
    if unknown := wanted - {family.lower() for family in families}:
        raise ValueError(f'expected a family of {", ".join(families)}, got {min(unknown)!r}')
    rows = {name: one for name, one in PUBLISHED.items() if one.family.lower() in wanted}
    if args.json:
        print(json.dumps([as_data(name, one) for name, one in rows.items()], indent=1))
    else:
        # A row is a line whatever the width of the terminal, for `less -S` and `grep`.
        Console(width=WIDTH).print(as_table(rows))


def as_data(name: str, published: PublishedWeights) -> dict[str, object]:
    """Return what is known of published weights, for JSON."""
    facts = asdict(published)
    normalization = facts.pop('normalization')
    return dict(
        name=name,
        **facts,
        normalization=normalization,
        mean=published.mean,
        std=published.std,
        loads=not published.obstacle,
    )


def as_table(rows: Mapping[str, PublishedWeights]) -> Table:
    """Return the table for people."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column('name')
    for heading in next(iter(rows.values())).facts():
        right = heading in ('resolution', 'classes')
        table.add_column(heading, justify='right' if right else 'left')
    for name, published in rows.items():
        values = published.facts().values()
        table.add_row(name, *('' if value is None else str(value) for value in values))
    return table


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed command line; ``run`` is the command's function."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    listing = commands.add_parser('list', help='print what is published, and whether it loads')
    listing.add_argument(
        '--family', nargs='+', metavar='FAMILY', help='such as V1, V2, DINOv3, EUPE or CLIP'
    )
    listing.add_argument('--json', action='store_true', help='print JSON and nothing else')
    listing.set_defaults(run=list_weights)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    args = parse(argv)
    try:
        args.run(args)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'weights: {error}')


if __name__ == '__main__':
    main()
