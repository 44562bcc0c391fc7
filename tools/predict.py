"""Draw and save what a trained model sees: tools/predict.py CONFIG CHECKPOINT IMAGE_OR_FOLDER.

Writes DIR/overlays/NAME for every image and DIR/predictions.json with all results: boxes, scores,
classes and RLE masks of a detector; a label map (DIR/label_maps/NAME.png) and the share of each
class of a segmentor. An image that fails, or whose results would not fit into the memory that is
free, is named at the end with the reason and does not lose the others; the exit status is then 1.
If the command is interrupted, what is done is kept.

CONFIG may be the JSON that tools/publish.py --config writes, or YAML of the same form: plain data,
of which nothing is executed. A Python config is executed.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from mmengine.device import get_device
from rich.progress import track

from convnext_backbones.config.flags import config_parser
from convnext_backbones.config.loading import load_config
from convnext_backbones.engine.build import build_model
from convnext_backbones.inference.optimize import optimize_for_inference
from convnext_backbones.inference.predictor import Predictor
from convnext_backbones.io.files import write_atomically
from convnext_backbones.io.images import read_image

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.gif')


def list_images(source: str) -> list[Path]:
    """The image itself, or the images of a folder in the order of their names.

    Raises:
        FileNotFoundError: There is nothing at ``source``, or no image in the folder.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    images = sorted(p for p in path.glob('*') if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not images:
        raise FileNotFoundError(
            f'expected an image, or a folder with images ({", ".join(IMAGE_SUFFIXES)}), found none '
            f'at {source!r}'
        )
    return images


def reason(error: Exception, path: Path) -> str:
    """What happened to an image, in one line without its name."""
    text = ' '.join(str(error).split()).removeprefix(f'cannot read the image {str(path)!r}: ')
    return text if isinstance(error, (ValueError, OSError)) else f'{type(error).__name__}: {text}'


def run(args: argparse.Namespace) -> list[str]:
    """Predict every image; the messages on those that failed.

    Raises:
        FileNotFoundError: Config, checkpoint or images are missing.
        ValueError: The config or the checkpoint cannot be used.
    """
    images = list_images(args.source)
    cfg = load_config(args.config, args.cfg_options)
    model = build_model(cfg, args.checkpoint, args.device)
    if args.optimize:
        model = optimize_for_inference(model)
    predictor = Predictor(cfg, model, args.out, args.score_thr)
    results, failures = {}, {}
    try:
        for path in track(images, description='predicting', disable=len(images) == 1):
            try:
                image = read_image(path)
                sample = predictor.predict(image)
                results[path.name] = predictor.record(sample, path.name)
                predictor.draw(sample, image, path.name)
            except Exception as error:  # whatever it is, it is not to lose the other images
                failures[path.name] = reason(error, path)
    finally:
        report = dict(classes=predictor.classes, images=results, failures=failures)
        write_atomically(args.out / 'predictions.json', json.dumps(report, indent=1))
        print(f'{len(results)} of {len(images)} images predicted; results are in {args.out}')
    return [f'{path}: {failures[path.name]}' for path in images if path.name in failures]


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = config_parser(__doc__.splitlines()[0])
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file, published name or URL')
    parser.add_argument('source', metavar='IMAGE_OR_FOLDER')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder to write')
    parser.add_argument('--score-thr', type=float, default=0.3, help='for detectors (default 0.3)')
    parser.add_argument(
        '--optimize', action='store_true', help='the faster form for CPUs; equal to rounding'
    )
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    try:
        failures = run(parser.parse_args(argv))
    except KeyboardInterrupt:
        print('predict: interrupted', file=sys.stderr)
        sys.exit(130)  # as shells have it
    except (OSError, TypeError, ValueError) as error:
        sys.exit(f'predict: {error}')
    if failures:
        sys.exit('\n'.join(f'predict: {failure}' for failure in failures))


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like an interruption
    main()
