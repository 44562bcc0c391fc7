"""Published weights, listed and verified: ``python -m convnext_backbones.weights list``.

``verify NAME`` fetches weights, loads them, names the best classes of an image, and compares with
the implementation that the weights come from, if that is installed.
"""

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
from .verify import verify

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


def verify_weights(args: argparse.Namespace) -> None:
    """Print what came of weights; end with status 1 if they differ from their origin.

    Raises:
        FileNotFoundError: There is no such name or file.
        ValueError: The weights cannot be fetched or do not load, or the image cannot be read.
    """
    result = verify(args.source, args.image, args.top)
    print(json.dumps(asdict(result), indent=1) if args.json else result)
    if not result.passed:
        sys.exit(1)


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


def positive(text: str) -> int:
    """Return a number of at least one.

    Raises:
        ArgumentTypeError: It is not.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected a number of at least 1, got {text!r}')
    return int(text)


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
    verifying = commands.add_parser(
        'verify', help='load weights, and compare with the implementation that they come from'
    )
    verifying.add_argument('source', metavar='NAME', help='a published name, a file or a URL')
    verifying.add_argument('--image', metavar='FILE', help='classify this, not a generated picture')
    verifying.add_argument(
        '--top', type=positive, default=5, metavar='N', help='number of classes (default 5)'
    )
    verifying.add_argument('--json', action='store_true', help='print JSON and nothing else')
    verifying.set_defaults(run=verify_weights)
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
