"""Tabulate the steps from ResNet to ConvNeXt: multiply-adds, parameters, and the paper's figures.

    python tools/roadmap.py                                   # both of the paper's tables
    python tools/roadmap.py --regime T --kinds                # and where the multiply-adds are
    python tools/roadmap.py --blocks                          # what a block of each step is
    python tools/roadmap.py --format markdown --out road.md
    python tools/roadmap.py --figure road.png                 # the paper's figure 2, our counts

Multiply-adds and parameters are counted from the networks; accuracies are the authors'. Cells that
differ from the printed ones are named. Needs neither data nor weights nor a GPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from convnext_backbones.benchmark.roadmap import FORMATS, count_road, render
from convnext_backbones.benchmark.roadmap_blocks import block_pictures
from convnext_backbones.benchmark.roadmap_figure import draw_road, save_figure
from convnext_backbones.io.files import write_atomically
from convnext_backbones.models.roadmap_steps import REGIMES


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument(
        '--regime',
        choices=REGIMES,
        help='T: ResNet-50 to ConvNeXt-T; B: ResNet-200 to ConvNeXt-B; both by default',
    )
    parser.add_argument(
        '--kinds', action='store_true', help='add the multiply-adds by kind of layer'
    )
    parser.add_argument(
        '--blocks',
        action='store_true',
        help='print what a block of each step is, of regime T by default, and no table',
    )
    parser.add_argument('--format', choices=FORMATS, default='text', help='json has all kinds')
    parser.add_argument('--out', type=Path, metavar='FILE', help='write to FILE')
    parser.add_argument(
        '--figure', type=Path, metavar='FILE', help='draw a picture, .png, .svg or .pdf'
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    args = parse(argv)
    regimes = [args.regime] if args.regime else list(REGIMES)
    counts = [] if args.blocks and args.figure is None else count_road(regimes)
    try:
        if args.figure is not None:
            save_figure(draw_road(counts), args.figure)
            print(f'{args.figure} is written')
    except (OSError, ValueError) as error:
        sys.exit(f'roadmap: {error}')
    text = block_pictures(regimes[0]) if args.blocks else render(counts, args.format, args.kinds)
    if args.out is None:
        print(text)
        return
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, f'{text}\n')
    print(f'{args.out} is written')


if __name__ == '__main__':
    main()
