"""Draw and save what a trained model sees: tools/predict.py CONFIG CHECKPOINT IMAGE_OR_FOLDER.

Writes DIR/overlays/NAME for every image and DIR/predictions.json with all results: boxes, scores,
classes and RLE masks of a detector; a label map (DIR/label_maps/NAME.png) and the share of each
class of a segmentor. An image that cannot be read is named at the end and does not lose the
others; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from rich.progress import track
from torch import nn

from convnext_backbones.files import write_atomically
from convnext_backbones.inference import optimize_for_inference
from convnext_backbones.launch import build_model, config_parser, load_config

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


def list_images(source: str) -> list[Path]:
    """The image itself, or the images of a folder in the order of their names.

    Raises:
        FileNotFoundError: There is nothing at ``source``, or no image in the folder.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    images = sorted(p for p in path.glob('*') if p.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise FileNotFoundError(
            f'expected an image, or a folder with images ({", ".join(IMAGE_SUFFIXES)}), found none '
            f'at {source!r}'
        )
    return images


def detection_record(sample: BaseDataElement, classes: tuple[str, ...], score_thr: float) -> dict:
    """Boxes (x1, y1, x2, y2 in pixels), scores, classes and RLE masks of one image."""
    from mmdet.structures.mask import encode_mask_results

    instances = sample.pred_instances[sample.pred_instances.scores >= score_thr].cpu().numpy()
    records = [
        dict(bbox=box.round(2).tolist(), score=round(float(score), 5), category=classes[label])
        for box, score, label in zip(
            instances.bboxes, instances.scores, instances.labels, strict=True
        )
    ]
    if 'masks' in instances:
        for record, rle in zip(records, encode_mask_results(instances.masks), strict=True):
            record['mask'] = dict(size=list(rle['size']), counts=rle['counts'].decode())
    return dict(instances=records)


def segmentation_record(sample: BaseDataElement, classes: tuple[str, ...], label_map: Path) -> dict:
    """The share of pixels of each class present; writes the label map beside."""
    labels = sample.pred_sem_seg.data[0].cpu().numpy()  # (1, H, W) -> (H, W)
    mmcv.imwrite(labels.astype(np.uint8), str(label_map))
    present, counts = np.unique(labels, return_counts=True)
    shares = {classes[i]: round(n / labels.size, 5) for i, n in zip(present, counts, strict=True)}
    return dict(label_map=label_map.name, share=shares)


class Predictor:
    """A model with its visualizer, for one image at a time.

    Args:
        cfg: A detection or segmentation config.
        model: Its model, with weights, from :func:`convnext_backbones.launch.build_model`.
        out: Folder to write to.
        score_thr: Detections below are neither drawn nor saved.
    """

    def __init__(self, cfg: Config, model: nn.Module, out: Path, score_thr: float) -> None:
        self.task = cfg.default_scope
        self.model = model
        self.out = out
        self.score_thr = score_thr
        self.visualizer: Visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None))
        self.visualizer.dataset_meta = model.dataset_meta
        self.classes = tuple(model.dataset_meta['classes'])

    def predict(self, path: Path) -> dict:
        """Write the overlay of one image and return its record.

        Raises:
            ValueError: The file is not an image that can be read.
        """
        image = mmcv.imread(str(path))  # (H, W, 3), BGR
        if image is None:
            raise ValueError('the file is damaged or not an image')
        overlay = dict(
            name=path.stem,
            image=mmcv.bgr2rgb(image),
            draw_gt=False,
            out_file=str(self.out / 'overlays' / path.name),
        )
        if self.task == 'mmdet':
            from mmdet.apis import inference_detector

            sample = inference_detector(self.model, image)
            record = detection_record(sample, self.classes, self.score_thr)
            overlay['pred_score_thr'] = self.score_thr
        else:
            from mmseg.apis import inference_model

            sample = inference_model(self.model, image)
            record = segmentation_record(
                sample, self.classes, self.out / 'label_maps' / f'{path.name}.png'
            )
        self.visualizer.add_datasample(data_sample=sample, **overlay)
        return record


def run(args: argparse.Namespace) -> list[str]:
    """Predict every image; the messages on those that failed.

    Raises:
        FileNotFoundError: Config, checkpoint or images are missing.
        ValueError: The config or the checkpoint cannot be used.
    """
    images = list_images(args.source)
    cfg = load_config(args)
    model = build_model(cfg, args.checkpoint, args.device)
    if args.optimize:
        model = optimize_for_inference(model)
    predictor = Predictor(cfg, model, args.out, args.score_thr)
    args.out.mkdir(parents=True, exist_ok=True)
    results, failures = {}, []
    for path in track(images, description='predicting', disable=len(images) == 1):
        try:
            results[path.name] = predictor.predict(path)
        except ValueError as error:
            failures.append(f'{path}: {error}')
    report = dict(classes=predictor.classes, images=results)
    write_atomically(args.out / 'predictions.json', json.dumps(report, indent=1))
    print(f'{len(results)} of {len(images)} images predicted; results are in {args.out}')
    return failures


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
    except (FileNotFoundError, TypeError, ValueError) as error:
        sys.exit(f'predict: {error}')
    if failures:
        sys.exit('\n'.join(f'predict: {failure}' for failure in failures))


if __name__ == '__main__':
    main()
