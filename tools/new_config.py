"""Write a config for a folder of data: tools/new_config.py DATA [--head HEAD] [flags].

Finds out what the folder holds: COCO files, YOLO, Pascal VOC, label maps of the usual layouts.
What mmdet and mmseg cannot read is converted into a new folder; DATA is not changed. The config
that is written has at most 30 lines, which say why. Then the check runs, as tools/check.py does.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from convnext_backbones.authoring.new_config import write_config
from convnext_backbones.authoring.plan import BOX_HEAD, DEFAULT_WEIGHTS, MAP_HEAD, MASK_HEAD, Wishes
from convnext_backbones.authoring.sizes import STEP
from convnext_backbones.checks.findings import ERROR, count_levels
from convnext_backbones.checks.preflight import find_problems
from convnext_backbones.config.errors import exit_with
from convnext_backbones.config.flags import add_traceback_flag
from convnext_backbones.config.loading import load_run_config

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('data', type=Path, metavar='DATA', help='folder with images and labels')
    parser.add_argument(
        '--head',
        help='mask_rcnn, cascade_mask_rcnn, upernet, a name of configs/heads, a config of mmdet or '
        'mmseg such as mmdet::dino/dino-4scale_r50_8xb2-12e_coco, or a file (default: '
        f'{MASK_HEAD} for masks, {BOX_HEAD} for boxes, {MAP_HEAD} for label maps)',
    )
    parser.add_argument(
        '--weights',
        help='published name, file or URL to start from; none trains from scratch '
        f'(default {DEFAULT_WEIGHTS})',
    )
    parser.add_argument('--arch', help='size of the backbone (default: that of the weights)')
    parser.add_argument(
        '--scale', type=_side, nargs=2, metavar=('LONG', 'SHORT'), help='sides of scaled images'
    )
    parser.add_argument('--epochs', type=_positive, metavar='N', help='length of the training')
    parser.add_argument('--batch', type=_positive, metavar='N', help='images per step')
    parser.add_argument(
        '--out', type=Path, metavar='FILE', help='config to write (default: the name of DATA)'
    )
    parser.add_argument(
        '--data-out',
        type=Path,
        metavar='DIR',
        help='folder for converted or split data (default: DATA_converted)',
    )
    add_traceback_flag(parser)
    return parser.parse_args(argv)


def write(args: argparse.Namespace, words: list[str]) -> Path:
    """Write the config that the command line asks for, and return its path."""
    name = Path(os.path.abspath(args.data)).name
    out = args.out or Path(f'{name}.py')
    # Not with_name(), which of '..' makes a folder inside of the data, and refuses '.'.
    beside = args.data.parent if args.data.name not in ('', '..') else args.data / '..'
    write_config(
        args.data,
        out,
        Wishes(args.head, args.weights, args.arch, args.scale, args.epochs, args.batch),
        prepared=args.data_out or beside / f'{name}_converted',
        configs=CONFIGS,
        command=shlex.join(['tools/new_config.py', *words]),
    )
    return out


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    args = parse(argv)
    words = sys.argv[1:] if argv is None else argv
    try:
        out = write(args, words)
        findings = find_problems(load_run_config(out))
    except (OSError, TypeError, ValueError) as error:
        exit_with('new_config', error, args.traceback)
    for finding in findings:
        print(finding)
    failed = any(finding.level == ERROR for finding in findings)
    config = shlex.quote(str(out))
    step = f'python tools/train.py {config}'
    if failed:
        step = f'mend the errors; python tools/check.py {config} --fix DIR mends annotations'
    print(f'{count_levels(findings)}; next: {step}')
    sys.exit(failed)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected a whole number of at least 1, got {text!r}')
    return int(text)


def _side(text: str) -> int:
    if not text.isdecimal() or int(text) < STEP:
        raise argparse.ArgumentTypeError(
            f'expected whole numbers of at least {STEP}, the stride of the last map, got {text!r}'
        )
    return int(text)


if __name__ == '__main__':
    main()
