"""Compare parameters and multiply-adds of models with the paper: tools/complexity.py [CONFIG ...].

Without CONFIG, the thirteen published experiments at the paper's image sizes; with --layers, the
layers of ConvNeXt-T for ImageNet. Needs neither data nor weights nor a GPU.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from torch import nn

from convnext_backbones.benchmark.complexity import (
    build_classifier,
    build_found,
    find_models,
    measure,
)
from convnext_backbones.benchmark.cost_report import FORMATS, render
from convnext_backbones.benchmark.layer_report import render_layers
from convnext_backbones.benchmark.layers import list_layers
from convnext_backbones.benchmark.paper import CLASSIFIERS, COMPARATORS
from convnext_backbones.experiments import EXPERIMENTS
from convnext_backbones.io.files import write_atomically
from convnext_backbones.models.variants import VARIANTS
from convnext_backbones.recipes import HEAD_RECIPES, RECIPES

CLASSIFIER_SHAPE = (224, 224)  # the authors' for ImageNet
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
    classifier = parser.add_argument_group('a classifier of your own')
    classifier.add_argument('--arch', choices=VARIANTS, metavar='NAME', help='such as tiny')
    classifier.add_argument(
        '--depths', nargs='+', type=int, metavar='N', help='blocks per stage, instead of --arch'
    )
    classifier.add_argument(
        '--dims', nargs='+', type=int, metavar='C', help='channels per stage, instead of --arch'
    )
    classifier.add_argument(
        '--num-classes', type=int, metavar='K', help='by default 1000; 0 for no head'
    )
    classifier.add_argument('--use-grn', action='store_true', help='ConvNeXt V2')
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument('--breakdown', action='store_true', help='add a row for each part')
    rows.add_argument(
        '--layers',
        action='store_true',
        help="instead, each layer's output and parameters, as in Keras' model.summary()",
    )
    parser.add_argument('--format', choices=FORMATS, default='table', help='json has all parts')
    parser.add_argument('--out', type=Path, metavar='FILE', help='write to FILE')
    return parser.parse_args(argv)


def own_classifier(args: argparse.Namespace) -> dict[str, Any] | None:
    """Return the options of the classifier that the flags describe; None if they describe none."""
    given = {name: getattr(args, name) for name in ('arch', 'depths', 'dims', 'num_classes')}
    options = {name: value for name, value in given.items() if value is not None}
    if not options and not args.use_grn and (args.models or not args.layers):
        return None
    return dict(arch=None, use_grn=args.use_grn) | options


def list_models(args: argparse.Namespace) -> list[str]:
    """Return the models that the command line asks for by name, each once.

    Raises:
        ValueError: There is no such model.
    """
    models = [model for query in args.models for model in find_models(query)]
    if not models and own_classifier(args) is None:
        models = list(EXPERIMENTS)
    models += COMPARATORS if args.comparators else []
    models += CLASSIFIERS if args.imagenet else []
    models += RECIPES if args.recipes else []
    models += HEAD_RECIPES if args.heads else []
    return list(dict.fromkeys(models))


def each_model(
    args: argparse.Namespace,
) -> list[tuple[str, Callable[[], nn.Module], tuple[int, int] | None]]:
    """Return name, builder and image size of each model; None for the size of the tables.

    Raises:
        ValueError: There is no such model.
    """
    shape = tuple(args.shape) if args.shape else None
    models = [
        (Path(model).stem, partial(build_found, model, CONFIGS), shape)
        for model in list_models(args)
    ]
    options = own_classifier(args)
    if options is not None:
        build = partial(build_classifier, **options)
        models.insert(0, ('classifier', build, shape or CLASSIFIER_SHAPE))
    return models


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    args = parse(argv)
    # Warnings of OpenMMLab's packages are about training.
    warnings.filterwarnings('ignore', module=r'mm(seg|det|cv|engine)\.')
    count = list_layers if args.layers else measure
    try:
        models = track(
            each_model(args),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        found = [count(name, build(), shape) for name, build, shape in models]
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'complexity: {error}')
    text = (
        render_layers(found, args.format)
        if args.layers
        else render(found, args.format, args.breakdown)
    )
    if args.out is None:
        print(text)
        return
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, f'{text}\n')
    print(f'{len(found)} models are in {args.out}')


if __name__ == '__main__':
    main()
