"""Export a trained model, or its backbone: tools/export.py CONFIG CHECKPOINT --out DIR.

    tools/export.py CONFIG CHECKPOINT --out DIR                      # ONNX
    tools/export.py CONFIG CHECKPOINT --out DIR --format openvino    # or torch (torch.export)
    tools/export.py CONFIG CHECKPOINT --out DIR --part backbone      # feature maps
    tools/export.py CONFIG CHECKPOINT --out DIR --precision int8 --images FOLDER

The model takes images as they are read, of any number and size: mean, std and all that follows the
heads are inside, up to label maps or boxes. DIR gets the model, config.json, an example and a
README with the code that runs it. tools/predict.py and tools/test.py take DIR in place of a
checkpoint. The outputs are compared with those of the original before anything is kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from mmengine.config import Config

from convnext_backbones.config.errors import exit_with
from convnext_backbones.config.flags import add_traceback_flag, config_parser
from convnext_backbones.config.loading import load_config
from convnext_backbones.engine.build import build_model
from convnext_backbones.exporting.folder import Wanted, export
from convnext_backbones.exporting.quantize import MOST_IMAGES, PRECISIONS
from convnext_backbones.inference.exported import FILES
from convnext_backbones.inference.folder import list_images
from convnext_backbones.inference.predictor import inference_pipeline, reading_options
from convnext_backbones.io.images import read_image


def images_of(cfg: Config, folder: Path) -> list[np.ndarray]:
    """Return images as the network of a config gets them, each of shape (1, C, H, W)."""
    pipeline, reading = inference_pipeline(cfg), reading_options(cfg)
    paths = list_images(folder)[:MOST_IMAGES]
    images = (read_image(path, **reading) for path in paths)
    return [pipeline(dict(img=image, img_id=0))['inputs'].numpy()[None] for image in images]


def run(args: argparse.Namespace) -> str:
    """Build the model, export it, and return what is to be said about it.

    Raises:
        FileNotFoundError: Config, checkpoint or images are missing.
        ValueError: The model cannot be exported so.
    """
    cfg = load_config(args.config, args.cfg_options)
    model = build_model(cfg, args.checkpoint, 'cpu')
    images = images_of(cfg, args.images) if args.images else []
    found = export(model, args.out, Wanted(args.format, args.part, args.precision, images))
    return f'{args.out}: {found}'


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = config_parser((__doc__ or '').splitlines()[0])
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file, published name or URL')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='a new folder')
    parser.add_argument('--format', choices=tuple(FILES), default='onnx')
    parser.add_argument('--part', choices=('model', 'backbone'), default='model')
    parser.add_argument(
        '--precision', choices=PRECISIONS, default='fp32', help='fp16 and int8: ONNX only'
    )
    parser.add_argument(
        '--images',
        type=Path,
        metavar='FOLDER',
        help='for the comparison, the example and int8: images like those to predict; '
        f'at most {MOST_IMAGES} are read',
    )
    add_traceback_flag(parser)
    args = parser.parse_args(argv)
    try:
        print(run(args))
    except (OSError, TypeError, ValueError) as error:
        exit_with('export', error, args.traceback)


if __name__ == '__main__':
    main()
