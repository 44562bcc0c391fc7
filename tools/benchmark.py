"""Time our network beside other implementations, in turns and in processes of their own.

    python tools/benchmark.py backbone                            # ConvNeXt-T, 800 x 1280, fp32
    python tools/benchmark.py backbone --training --shape 512 512 --batch 2
    python tools/benchmark.py backbone --training --dtype bf16    # steps under autocast
    python tools/benchmark.py model configs/mask_rcnn_convnext_t.py --shape 800 1280
    python tools/benchmark.py model configs/mask_rcnn_convnext_t.py --from-file
    python tools/benchmark.py sweep --over pixels --contenders timm 'ours optimized'
    python tools/benchmark.py operators                           # mmcv's, by provider
    python tools/benchmark.py roadmap --shape 224 224             # the steps from ResNet
    python tools/benchmark.py gemm                                # what the machine can do

Peers that are not installed are named and skipped. Columns: ``ratio`` is a contender's time over
ours, the median over rounds; ``memory`` is its peak above libraries, weights and input;
``difference`` is the largest difference from our plain form, as a fraction of the largest value;
``of ceiling`` compares its operations per second with those of the fastest 1x1 convolution of the
same network, measured in the same run.

``model`` times the prediction for a decoded image; with ``--from-file`` reading and decoding a JPEG
of this size and the transforms of the test data belong to it.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial

from rich import box

from convnext_backbones.benchmark.case import Case
from convnext_backbones.benchmark.command import race_flags, report_files, run_command
from convnext_backbones.benchmark.operators import providers_text, race_providers
from convnext_backbones.benchmark.report import (
    draw_bars,
    draw_sweep,
    header_text,
    publish_reports,
    report_text,
    sweep_text,
)
from convnext_backbones.benchmark.roadmap_figure import draw_times, save_figure
from convnext_backbones.benchmark.roadmap_speed import make_road_case, race_steps, road_text
from convnext_backbones.benchmark.sweep import (
    DTYPES,
    SWEEPS,
    RaceOptions,
    measure_ceilings,
    run_case,
    sweep,
)
from convnext_backbones.benchmark.whole_models import read_config
from convnext_backbones.io.files import write_atomically, write_json
from convnext_backbones.models.roadmap_steps import REGIMES
from convnext_backbones.models.variants import VARIANTS, resolve_variant
from convnext_backbones.weights.names import variant_name


def run_race(args: argparse.Namespace, header: dict[str, str], options: RaceOptions) -> None:
    """Run the commands ``backbone`` and ``model``."""
    report = run_case(make_case(args), args.contenders, args.dtype, options)
    text, picture = partial(report_text, report), partial(draw_bars, report)
    publish_reports(header, [report], text, picture, report_files(args))


def run_sweep(args: argparse.Namespace, header: dict[str, str], options: RaceOptions) -> None:
    """Run the command ``sweep``."""
    reports = sweep(args.over, make_case(args), args.contenders, args.dtype, options)
    text, picture = partial(sweep_text, args.over, reports), partial(draw_sweep, args.over, reports)
    publish_reports(header, reports, text, picture, report_files(args))


def run_gemm(args: argparse.Namespace, header: dict[str, str], options: RaceOptions) -> None:
    """Run the command ``gemm``."""
    for dtype, rates in measure_ceilings(make_case(args), DTYPES).items():
        print(
            f'{dtype}: 1x1 convolution {rates["conv"] / 1e9:.1f} GFLOP/s, '
            f'torch.mm {rates["mm"] / 1e9:.1f} GFLOP/s'
        )


def run_operators(args: argparse.Namespace, header: dict[str, str], options: RaceOptions) -> None:
    """Run the command ``operators``."""
    results = race_providers(args.threads, options)
    print(providers_text(results))
    if args.markdown:
        write_atomically(args.markdown, f'{providers_text(results, markdown=True)}\n'.encode())


def run_roadmap(args: argparse.Namespace, header: dict[str, str], options: RaceOptions) -> None:
    """Run the command ``roadmap``."""
    sizes = dict(batch=args.batch, training=args.training, threads=args.threads)
    case = make_road_case(
        args.regime, args.steps, args.shape, width_factor=args.width_factor, **sizes
    )
    rows = race_steps(case, options)
    print(f'\n{road_text(case, rows, box.SIMPLE_HEAD)}')
    for path in filter(None, (args.json, args.markdown)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if args.json:
        write_json(args.json, dict(machine=header, case=asdict(case), rows=rows))
    if args.markdown:
        text = f'{header_text(header)}\n\n{road_text(case, rows, box.MARKDOWN)}\n'
        write_atomically(args.markdown, text)
    measured = [row for row in rows if not row['failure']]
    if args.png and measured:
        save_figure(draw_times(case.title, measured), args.png)


def make_case(args: argparse.Namespace) -> Case:
    """Return the case that the arguments describe.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: The config is unsuitable, or a number is too small.
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
        sizes = dict(depths=variant.depths, dims=variant.dims)
        arch = variant_name(**sizes) or sizes
    sizes = (tuple(args.shape), args.batch, args.training, args.threads)
    return Case(arch, *sizes, args.config, args.use_grn, args.from_file)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    common = race_flags()
    sized = argparse.ArgumentParser(add_help=False)
    sized.add_argument('--shape', nargs=2, type=int, metavar=('H', 'W'), default=(800, 1280))
    sized.add_argument('--dtype', choices=DTYPES, default='fp32', help='of the contenders')
    sized.add_argument('--contenders', nargs='+', metavar='NAME', help='default: all of the dtype')
    network = argparse.ArgumentParser(add_help=False)
    network.add_argument('--arch', choices=VARIANTS, default='tiny')
    network.add_argument('--use-grn', action='store_true', help='ConvNeXt V2')
    network.add_argument('--batch', type=int, default=1)
    network.add_argument('--training', action='store_true', help='time a training step')

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.set_defaults(config=None, arch='tiny', batch=1, training=False, shape=(800, 1280))
    parser.set_defaults(use_grn=False, from_file=False)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    parents = [network, sized, common]
    command = commands.add_parser('backbone', parents=parents, help='backbones beside one another')
    command.set_defaults(run=run_race)
    command = commands.add_parser('model', parents=[sized, common], help='a detector or segmentor')
    command.add_argument('config', metavar='CONFIG')
    command.add_argument(
        '--from-file', action='store_true', help='read the image from a JPEG, too, and transform it'
    )
    command.set_defaults(run=run_race)
    command = commands.add_parser('sweep', parents=parents, help='times over sizes')
    command.add_argument('--over', choices=SWEEPS, required=True)
    command.set_defaults(run=run_sweep)
    command = commands.add_parser('operators', parents=[common], help="mmcv's, by provider")
    command.set_defaults(run=run_operators)
    command = commands.add_parser('roadmap', parents=[common], help='the steps from ResNet')
    command.add_argument('--regime', choices=REGIMES, default='T')
    command.add_argument('--steps', nargs='+', metavar='STEP', help='default: all')
    command.add_argument(
        '--shape', nargs=2, type=int, metavar=('H', 'W'), default=(224, 224), help='of the images'
    )
    command.add_argument('--batch', type=int, default=1)
    command.add_argument('--training', action='store_true', help='time a training step')
    command.add_argument('--width-factor', type=float, default=1.0, help='multiplies all widths')
    command.set_defaults(run=run_roadmap)
    command = commands.add_parser('gemm', parents=parents, help='the ceiling of the machine')
    command.set_defaults(run=run_gemm)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    args = parse(argv)
    run_command('benchmark', args.run, args)


if __name__ == '__main__':
    main()
