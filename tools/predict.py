"""Draw and save what a model predicts: tools/predict.py CONFIG CHECKPOINT IMAGE_OR_FOLDER.

Writes DIR/overlays/NAME for every image and DIR/predictions.json with all results: boxes, scores,
classes and RLE masks of a detector; a label map (DIR/label_maps/NAME.png) and the share of each
class of a segmentor. An image that fails, or whose results would not fit into free memory, is
listed at the end with the reason and does not affect the others; the exit status is then 1. If the
command is interrupted, finished images are kept.

With --tiles, images of any size are predicted in the memory of a tile: objects are merged over the
borders of tiles, overlays are reduced, and the label map of a TIFF is a TIFF. A TIFF is read by
windows if rasterio is installed; its georeference then passes on to the label map, and its objects
are also written as polygons (DIR/outlines/NAME.geojson).

CHECKPOINT may be a folder that tools/export.py wrote; it runs in ONNX Runtime, OpenVINO or torch.

A model of tools/publish.py --layout huggingface is one argument in the place of these two, its
folder or its repository of the Hugging Face hub: tools/predict.py OWNER/NAME IMAGE_OR_FOLDER.

CONFIG may be the JSON that tools/publish.py --config writes, or YAML of the same form: plain data,
of which nothing is executed. A Python config is executed.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from mmengine.device import get_device

from convnext_backbones.config.errors import exit_with
from convnext_backbones.config.flags import add_traceback_flag, config_parser
from convnext_backbones.config.loading import load_config
from convnext_backbones.engine.build import build_model
from convnext_backbones.inference.exported import exported_model, is_exported
from convnext_backbones.inference.folder import list_images, predict_images
from convnext_backbones.inference.optimize import optimize_for_inference
from convnext_backbones.inference.predictor import Predictor
from convnext_backbones.inference.tiles import OVERLAP, Tiling
from convnext_backbones.weights.model_files import model_files


def run(args: argparse.Namespace) -> dict[Path, str]:
    """Build the model, predict every image, and return the reasons of those that failed.

    Raises:
        FileNotFoundError: Config, checkpoint or images are missing.
        ValueError: The config, the checkpoint or the tiles cannot be used.
    """
    if args.tiles is None and args.overlap is not None:
        raise ValueError('expected --overlap together with --tiles, got it alone')
    overlap = OVERLAP if args.overlap is None else args.overlap
    tiling = None if args.tiles is None else Tiling(args.tiles, overlap)
    images = list_images(args.source)
    config, checkpoint = args.config, args.checkpoint
    if checkpoint is None:
        config, checkpoint = map(str, model_files(config))
    cfg = load_config(config, args.cfg_options)
    if is_exported(checkpoint):
        model = exported_model(build_model(cfg, None, 'cpu'), checkpoint)
    else:
        model = build_model(cfg, checkpoint, args.device)
    if args.optimize:
        model = optimize_for_inference(model)
    return predict_images(Predictor(cfg, model, args.out, args.score_thr), images, tiling)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = config_parser((__doc__ or '').splitlines()[0])
    parser.add_argument(
        'checkpoint',
        metavar='CHECKPOINT',
        nargs='?',
        help='file, published name, URL, or exported folder; none after a published folder or '
        'repository',
    )
    parser.add_argument('source', metavar='IMAGE_OR_FOLDER')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder to write')
    parser.add_argument('--score-thr', type=float, default=0.3, help='for detectors (default 0.3)')
    parser.add_argument(
        '--tiles', type=int, metavar='PIXELS', help='predict in tiles of this side, such as 1024'
    )
    parser.add_argument(
        '--overlap', type=int, metavar='PIXELS', help=f'of the tiles (default {OVERLAP})'
    )
    parser.add_argument(
        '--optimize', action='store_true', help='use the fast form for CPUs; equal up to rounding'
    )
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    add_traceback_flag(parser)
    # Otherwise a flag between CONFIG and CHECKPOINT would make argparse leave the latter out.
    args = parser.parse_intermixed_args(argv)
    try:
        failures = run(args)
    except KeyboardInterrupt:
        print('predict: interrupted', file=sys.stderr)
        sys.exit(130)  # the status of shells
    except (OSError, TypeError, ValueError) as error:
        exit_with('predict', error, args.traceback)
    if failures:
        sys.exit('\n'.join(f'predict: {path}: {reason}' for path, reason in failures.items()))


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like an interruption
    main()
