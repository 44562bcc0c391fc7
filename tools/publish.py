"""Make a file to share from a training checkpoint: tools/publish.py CHECKPOINT --out DIR.

Only the weights and the names of the classes are kept, as safetensors, which hold no code. The
SHA-256 of the file becomes a part of its name, so that every download of it is checked. With
--config CONFIG, a JSON file of the same name is written beside it: the config as plain data, as far
as tools/predict.py needs it.

With --layout huggingface, DIR becomes a folder for the Hugging Face hub: model.safetensors,
config.json, and README.md, the model card. The card has the data, the recipe, the licence of the
starting weights, and metrics as measured: those of FILE, or of the validation that the training ran
for this very checkpoint. Give the config.py that the training left as CONFIG, then the card counts
its data. tools/predict.py and load_weights take DIR, or the name of its repository.
"""

from __future__ import annotations

import argparse
import sys

from convnext_backbones.config.errors import exit_with
from convnext_backbones.config.flags import add_traceback_flag
from convnext_backbones.engine.hub_layout import Stated, publish_for_hub
from convnext_backbones.engine.publishing import publish, publish_with_config

LAYOUTS = ('files', 'huggingface')


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='from a training')
    parser.add_argument('--out', dest='folder', default='.', metavar='DIR', help='folder to write')
    parser.add_argument('--ema', action='store_true', help='take the averaged weights (model_ema)')
    parser.add_argument(
        '--config',
        metavar='CONFIG',
        help='also write the parts of it that tools/predict.py needs, as JSON',
    )
    parser.add_argument(
        '--layout',
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help='files named by digest, or a folder with a model card (default: %(default)s)',
    )
    card = parser.add_argument_group('the model card of --layout huggingface')
    card.add_argument('--metrics', metavar='FILE', help='metrics.json of tools/test.py')
    card.add_argument('--dataset', default='', metavar='NAME', help='of the data, or OWNER/NAME')
    card.add_argument(
        '--license',
        default='',
        metavar='ID',
        help="of the model, such as apache-2.0 (default: the starting weights')",
    )
    card.add_argument('--repo', default='', metavar='OWNER/NAME', help='repository to upload to')
    add_traceback_flag(parser)
    args = parser.parse_args(argv)
    if args.layout != 'huggingface' and any((args.metrics, args.dataset, args.license, args.repo)):
        parser.error('--metrics, --dataset, --license and --repo are for --layout huggingface')
    if args.layout == 'huggingface' and not args.config:
        parser.error(
            '--layout huggingface needs --config CONFIG, such as config.py of the training'
        )
    return args


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    args = parse(argv)
    try:
        if args.layout == 'huggingface':
            stated = Stated(args.repo, args.dataset, args.license, args.metrics)
            folder, problem = publish_for_hub(
                args.checkpoint, args.config, args.folder, stated, args.ema
            )
            if problem:
                print(f'publish: the data could not be counted, {problem}', file=sys.stderr)
            print(folder)
        elif args.config:
            paths = publish_with_config(args.checkpoint, args.config, args.folder, args.ema)
            print(*paths, sep='\n')
        else:
            print(publish(args.checkpoint, args.folder, args.ema))
    except (OSError, TypeError, ValueError) as error:
        exit_with('publish', error, args.traceback)


if __name__ == '__main__':
    main()
