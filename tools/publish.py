"""Make a file to give away out of a training checkpoint: tools/publish.py CHECKPOINT --out DIR.

Only the weights and the names of the classes are kept, as safetensors, which hold no code. The
SHA-256 of the file becomes a part of its name, so that every download of it is checked. With
--config CONFIG a JSON of the same name is written beside it: what tools/predict.py needs of the
config, as plain data.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from convnext_backbones.config.loading import load_config
from convnext_backbones.config.plain import plain_config
from convnext_backbones.engine.publishing import publish
from convnext_backbones.io.files import write_atomically
from convnext_backbones.io.mmengine_patches import read_files_safely


def publish_config(config: str | os.PathLike) -> str:
    """The text of a config as JSON, for tools/predict.py; a Python config is executed for it.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: The config cannot be read, or does not go into plain data.
    """
    read_files_safely()
    cfg = load_config(config)
    return json.dumps(plain_config(cfg), indent=1)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='what training wrote')
    parser.add_argument('--out', dest='folder', default='.', metavar='DIR', help='where it goes')
    parser.add_argument('--ema', action='store_true', help='take the averaged weights (model_ema)')
    parser.add_argument(
        '--config', metavar='CONFIG', help='also write what tools/predict.py needs of it, as JSON'
    )
    args = parser.parse_args(argv)
    try:
        config = args.config and publish_config(args.config)
        path = publish(args.checkpoint, args.folder, args.ema)
        print(path)
        if config:
            write_atomically(path.with_suffix('.json'), config)
            print(path.with_suffix('.json'))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'publish: {error}')


if __name__ == '__main__':
    main()
