"""Make a file to share from a training checkpoint: tools/publish.py CHECKPOINT --out DIR.

Only the weights and the names of the classes are kept, as safetensors, which hold no code. The
SHA-256 of the file becomes a part of its name, so that every download of it is checked. With
--config CONFIG, a JSON file of the same name is written beside it: the config as plain data, as far
as tools/predict.py needs it.
"""

from __future__ import annotations

import argparse
import sys

from convnext_backbones.engine.publishing import publish, publish_with_config


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='from a training')
    parser.add_argument('--out', dest='folder', default='.', metavar='DIR', help='folder to write')
    parser.add_argument('--ema', action='store_true', help='take the averaged weights (model_ema)')
    parser.add_argument(
        '--config',
        metavar='CONFIG',
        help='also write the parts of it that tools/predict.py needs, as JSON',
    )
    args = parser.parse_args(argv)
    try:
        if args.config:
            paths = publish_with_config(args.checkpoint, args.config, args.folder, args.ema)
            print(*paths, sep='\n')
        else:
            print(publish(args.checkpoint, args.folder, args.ema))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'publish: {error}')


if __name__ == '__main__':
    main()
