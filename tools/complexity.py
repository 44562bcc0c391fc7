"""Compare parameters and multiply-adds of models with the paper: tools/complexity.py [CONFIG ...].

Without CONFIG, the thirteen published experiments at the paper's image sizes. Needs neither data
nor weights nor a GPU.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from rich.console import Console
from rich.progress import track

from convnext_backbones.benchmark.complexity import build_found, find_models, measure
from convnext_backbones.benchmark.cost_report import FORMATS, render
from convnext_backbones.benchmark.paper import CLASSIFIERS, COMPARATORS
from convnext_backbones.experiments import EXPERIMENTS
from convnext_backbones.io.files import write_atomically
from convnext_backbones.recipes import HEAD_RECIPES, RECIPES

CONFIGS = Path(__file__).parent.parent / 'configs'


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'models',
        nargs='*',
        metavar='CONFIG',
        help='config of a detector of mmdet or an encoder-decoder of mmseg, or a name: '
        'upernet_convnext_t, mask_rcnn_convnextv2_b, swin_t (in all heads), convnext_tiny_384 '
        '(ImageNet)',
    )
    parser.add_argument(
        '--comparators', action='store_true', help="add the paper's Swin, ResNet and ResNeXt"
    )
    parser.add_argument(
        '--imagenet', action='store_true', help='add the ImageNet classifiers of V1 and V2'
    )
    parser.add_argument(
        '--recipes', action='store_true', help='add our recipes of ConvNeXt V2 and DINOv3'
    )
    parser.add_argument(
        '--heads', action='store_true', help='add our recipes with other heads, from configs/heads'
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
    return parser.parse_args(argv)


def list_models(args: argparse.Namespace) -> list[str]:
    """Return the models that the command line asks for, each once.

    Raises:
        ValueError: There is no such model.
    """
    models = [model for query in args.models for model in find_models(query)] or list(EXPERIMENTS)
    models += COMPARATORS if args.comparators else []
    models += CLASSIFIERS if args.imagenet else []
    models += RECIPES if args.recipes else []
    models += HEAD_RECIPES if args.heads else []
    return list(dict.fromkeys(models))


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    args = parse(argv)
    shape = tuple(args.shape) if args.shape else None
    # Warnings of OpenMMLab's packages are about training.
    warnings.filterwarnings('ignore', module=r'mm(seg|det|cv|engine)\.')
    try:
        models = track(
            list_models(args),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        costs = [measure(Path(model).stem, build_found(model, CONFIGS), shape) for model in models]
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
