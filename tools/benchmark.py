"""Time the network beside other implementations of it, in turns and in processes of their own.

    python tools/benchmark.py backbone                            # ConvNeXt-T, 800 x 1280, fp32
    python tools/benchmark.py backbone --training --shape 512 512 --batch 2
    python tools/benchmark.py model configs/mask_rcnn_convnext_t.py --shape 800 1280
    python tools/benchmark.py sweep --over pixels --contenders timm 'ours optimized'
    python tools/benchmark.py gemm                                # what the machine can do
    python tools/benchmark.py targets                             # the whole table of goals

Peers that are not installed are named and left out. ``ratio`` is a contender's time over ours, the
median over rounds; ``memory`` is its peak above libraries, weights and input; ``difference`` is the
largest from our plain form, as a fraction of the largest value; ``of ceiling`` compares its
operations per second with those of the fastest 1x1 convolution of the same network, measured in the
same run.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from convnext_backbones.benchmark.case import Case
from convnext_backbones.benchmark.machine import machine
from convnext_backbones.benchmark.race import ContenderError
from convnext_backbones.benchmark.report import (
    draw_bars,
    draw_sweep,
    finish,
    header_text,
    report_text,
    sweep_text,
)
from convnext_backbones.benchmark.sweep import DTYPES, SWEEPS, Options, gemm, run_case, sweep
from convnext_backbones.benchmark.whole_models import read_config
from convnext_backbones.models.variants import VARIANTS, resolve_variant
from convnext_backbones.weights.names import variant_name
from dev.benchmark_targets import run_targets


def run_race(args: argparse.Namespace, header: dict[str, str], options: Options) -> None:
    """The commands ``backbone`` and ``model``."""
    report = run_case(make_case(args), args.contenders, args.dtype, options)
    finish(args, header, [report], partial(report_text, report), partial(draw_bars, report))


def run_sweep(args: argparse.Namespace, header: dict[str, str], options: Options) -> None:
    """The command ``sweep``."""
    reports = sweep(args.over, make_case(args), args.contenders, args.dtype, options)
    text, picture = partial(sweep_text, args.over, reports), partial(draw_sweep, args.over, reports)
    finish(args, header, reports, text, picture)


def run_gemm(args: argparse.Namespace, header: dict[str, str], options: Options) -> None:
    """The command ``gemm``."""
    for dtype, rates in gemm(make_case(args), DTYPES).items():
        print(
            f'{dtype}: 1x1 convolution {rates["conv"] / 1e9:.1f} GFLOP/s, '
            f'torch.mm {rates["mm"] / 1e9:.1f} GFLOP/s'
        )


def make_case(args: argparse.Namespace) -> Case:
    """The case that the arguments mean.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: The config is wrong, or a number is too small.
    """
    for name, value in (('--batch', args.batch), ('--threads', args.threads)):
        if value < 1:
            raise ValueError(f'expected {name} to be at least 1, got {value}')
    if min(args.shape) < 32:
        raise ValueError(f'expected --shape of at least 32 x 32 pixels, got {args.shape}')
    arch = args.arch
    if args.config is not None:
        backbone = read_config(args.config).model.backbone
        variant = resolve_variant(*map(backbone.get, ('arch', 'depths', 'dims')))
        arch = variant_name(**asdict(variant)) or asdict(variant)
    return Case(arch, tuple(args.shape), args.batch, args.training, args.threads, args.config)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('--rounds', type=int, default=7, help='fewer if slow (default: 7)')
    common.add_argument(
        '--seconds',
        type=float,
        default=150,
        help='about how long the rounds of a race may take (default: 150)',
    )
    common.add_argument('--threads', type=int, default=torch.get_num_threads())
    for kind in ('json', 'markdown', 'png'):
        common.add_argument(f'--{kind}', type=Path, metavar='FILE')
    sized = argparse.ArgumentParser(add_help=False)
    sized.add_argument('--shape', nargs=2, type=int, metavar=('H', 'W'), default=(800, 1280))
    sized.add_argument('--dtype', choices=DTYPES, default='fp32', help='of the contenders')
    sized.add_argument('--contenders', nargs='+', metavar='NAME', help='default: all of the dtype')
    network = argparse.ArgumentParser(add_help=False)
    network.add_argument('--arch', choices=VARIANTS, default='tiny')
    network.add_argument('--batch', type=int, default=1)
    network.add_argument('--training', action='store_true', help='time a training step')

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.set_defaults(config=None, arch='tiny', batch=1, training=False, shape=(800, 1280))
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    parents = [network, sized, common]
    command = commands.add_parser('backbone', parents=parents, help='backbones beside one another')
    command.set_defaults(run=run_race)
    command = commands.add_parser('model', parents=[sized, common], help='a detector or segmentor')
    command.add_argument('config', metavar='CONFIG')
    command.set_defaults(run=run_race)
    command = commands.add_parser('sweep', parents=parents, help='times over sizes')
    command.add_argument('--over', choices=SWEEPS, required=True)
    command.set_defaults(run=run_sweep)
    command = commands.add_parser('gemm', parents=parents, help='the ceiling of the machine')
    command.set_defaults(run=run_gemm)
    command = commands.add_parser('targets', parents=[common], help='all goals in one table')
    command.add_argument(
        '--only', default='', metavar='TEXT', help='the goals whose name contains this text'
    )
    command.set_defaults(run=run_targets)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    args = parse(argv)
    console = Console(stderr=True)
    try:
        if args.rounds < 1:
            raise ValueError(f'expected --rounds to be at least 1, got {args.rounds}')
        header = machine(args.threads)
        print(header_text(header))
        with console.status('') as status:
            args.run(args, header, Options(args.rounds, args.seconds, status.update))
    except (ContenderError, FileNotFoundError, ValueError) as error:
        sys.exit(f'benchmark: {error}')


if __name__ == '__main__':
    main()
