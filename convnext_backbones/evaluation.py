"""Evaluation: what the flags of tools/test.py change in a config, the metrics that they name, and
predictions that are kept and evaluated again without the network.

Importing this module registers ``FastCocoMetric``, ``PerClassIoUMetric`` and ``DumpPredictions``
in mmengine's root registry. It needs torch and mmengine only: what stems from mmdet or mmseg is
made when a config asks for it.
"""

from __future__ import annotations

import argparse
import csv
import gc
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from numbers import Real
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.registry import DATASETS, METRICS, TRANSFORMS, init_default_scope

from .checkpoint import read_checkpoint
from .files import write_atomically

METRICS_FILE = 'metrics.json'
PER_CLASS_FILES = 'per_class'  # .json and .csv
COCO_METRICS = ('CocoMetric', 'FastCocoMetric')
IOU_METRICS = ('IoUMetric', 'PerClassIoUMetric')
# Marks a file of predictions; the number rises when the records change.
DUMP_FORMAT = 'convnext_backbones predictions 1'


# --- what the flags change in a config ------------------------------------------------------


def add_evaluation_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that evaluate predictions, wherever they come from."""
    parser.add_argument('--out', metavar='DIR', help='keep the predictions here, as JSON or PNG')
    parser.add_argument(
        '--fast-eval', action='store_true', help='COCO numbers through faster-coco-eval'
    )
    parser.add_argument('--classwise', action='store_true', help='AP of each class, for detectors')


def use_evaluation_flags(cfg: Config, args: argparse.Namespace) -> None:
    """Change the metrics of ``cfg`` as the flags above say; segmentors get their per-class files.

    Raises:
        ValueError: The config evaluates with a metric that a flag does not apply to.
    """
    if args.classwise:
        for metric in named_metrics(cfg, COCO_METRICS, '--classwise'):
            metric.classwise = True
    if args.fast_eval:
        for metric in named_metrics(cfg, COCO_METRICS, '--fast-eval'):
            metric.type = 'FastCocoMetric'
    if args.out:
        write_predictions_to(cfg, args.out)
    for metric in evaluators(cfg):
        if metric.type == 'IoUMetric':
            metric.type = 'PerClassIoUMetric'
            # mmengine demands that metrics of one kind differ in their prefixes.
            name = '_'.join(filter(None, [PER_CLASS_FILES, metric.get('prefix')]))
            metric.out_prefix = os.path.join(cfg.work_dir, name)


def evaluators(cfg: Config) -> list[ConfigDict]:
    """The metrics of the test loop; a config names one, or a list."""
    metrics = cfg.test_evaluator
    return list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]


def named_metrics(cfg: Config, names: Sequence[str], flag: str) -> list[ConfigDict]:
    """The metrics of the test loop, if all are of the given types.

    Raises:
        ValueError: One is not.
    """
    metrics = evaluators(cfg)
    for metric in metrics:
        if metric.type not in names:
            raise ValueError(f'expected {" or ".join(names)} for {flag}, got {metric.type!r}')
    return metrics


def write_predictions_to(cfg: Config, folder: str) -> None:
    """Keep the predictions for evaluation elsewhere: COCO result files, or label map images.

    Raises:
        ValueError: The config evaluates with a metric that writes neither.
    """
    os.makedirs(folder, exist_ok=True)
    for metric in named_metrics(cfg, COCO_METRICS + IOU_METRICS, '--out'):
        if metric.type in COCO_METRICS:
            metric.outfile_prefix = os.path.join(folder, 'predictions')
        else:
            metric.output_dir = folder


def dump_predictions_to(cfg: Config, path: str) -> None:
    """Keep the predictions for :func:`evaluate_predictions`.

    Raises:
        ValueError: The config evaluates with a metric that cannot be computed from such a file.
    """
    metrics = named_metrics(cfg, COCO_METRICS + IOU_METRICS, '--dump')
    Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
    cfg.test_evaluator = [*metrics, dict(type='DumpPredictions', out_file=path)]


def use_tta(cfg: Config) -> None:
    """Switch ``cfg`` to test-time augmentation.

    ``tta_test_cfg`` replaces the model's ``test_cfg`` where the config has one: the authors'
    segmentors see whole images here, and windows of them otherwise.

    Raises:
        ValueError: The config does not say how to augment.
    """
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise ValueError(
            f'expected tta_model and tta_pipeline in the config for --tta, found no '
            f'{" and no ".join(missing)}'
        )
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    if 'tta_test_cfg' in cfg:
        cfg.model.test_cfg = cfg.tta_test_cfg
    cfg.model = ConfigDict(**deepcopy(cfg.tta_model), module=cfg.model)
    if cfg.default_scope == 'mmdet':
        # mmdet merges boxes over augmentations, and asserts that there are no masks to merge.
        roi_head = cfg.model.module.get('roi_head', {})
        roi_head.pop('mask_head', None)
        roi_head.pop('mask_roi_extractor', None)
        for metric in evaluators(cfg):
            metric.metric = 'bbox'


# --- metrics --------------------------------------------------------------------------------


def fast_evaluator() -> type:
    """The counterpart of pycocotools' ``COCOeval`` in faster-coco-eval, with the same numbers.

    Raises:
        ValueError: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCOeval_faster
    except ImportError:
        raise ValueError(
            'expected faster-coco-eval for fast evaluation, which is not installed; run: '
            'pip install faster-coco-eval'
        ) from None

    class FastCOCOeval(COCOeval_faster):
        def __init__(self, ground_truth, predictions, iou_type: str) -> None:
            super().__init__(ground_truth, predictions, iou_type, print_function=print)
            # Each pair of image and class is so little work that handing it to a thread costs more.
            self.rle_iou_max_workers = 1

        def evaluate(self) -> None:
            with garbage_kept():
                super().evaluate()

        def _summarize(
            self, ap=1, iouThr=None, areaRng='all', maxDets=100, freq_group_idx=None, catIds=None
        ) -> float:
            # pycocotools computes the first of its numbers, AP, from 100 detections per image and
            # class whatever the limits are; faster-coco-eval from the highest limit, mmdet's 1000.
            if ap == 1 and iouThr is None and areaRng == 'all':
                maxDets = 100
                if maxDets not in self.params.maxDets:
                    return -1.0
            return super()._summarize(ap, iouThr, areaRng, maxDets, freq_group_idx, catIds)

    return FastCOCOeval


@contextmanager
def garbage_kept() -> Iterator[None]:
    """No garbage collection within the context.

    Many small objects that all stay make the collector search them again and again: a seventh of
    the time of an evaluation of masks.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@METRICS.register_module(name='FastCocoMetric')
def fast_coco_metric(**kwargs) -> BaseMetric:
    """mmdet's CocoMetric with its keys and numbers, computed by faster-coco-eval.

    Args:
        **kwargs: Those of CocoMetric.

    Raises:
        ValueError: faster-coco-eval is not installed.
    """
    from mmdet.evaluation.metrics import coco_metric

    evaluator = fast_evaluator()

    class FastCocoMetric(coco_metric.CocoMetric):
        def compute_metrics(self, results: list) -> dict[str, float]:
            # CocoMetric finds its evaluator among the globals of its module, and nowhere else.
            with patch.multiple(coco_metric, COCOeval=evaluator, COCOevalMP=evaluator):
                return super().compute_metrics(results)

    return FastCocoMetric(**kwargs)


@METRICS.register_module(name='PerClassIoUMetric')
def per_class_iou_metric(out_prefix: str, **kwargs) -> BaseMetric:
    """mmseg's IoUMetric, which also writes what it computes for each class.

    Args:
        out_prefix: The files are ``<out_prefix>.json`` and ``<out_prefix>.csv``.
        **kwargs: Those of IoUMetric.
    """
    from mmseg.evaluation import IoUMetric

    class PerClassIoUMetric(IoUMetric):
        def total_area_to_metrics(self, *areas, **options) -> dict[str, np.ndarray]:
            metrics = super().total_area_to_metrics(*areas, **options)
            columns = {name: values for name, values in metrics.items() if name != 'aAcc'}
            write_per_class(out_prefix, self.dataset_meta['classes'], columns)
            return metrics

    return PerClassIoUMetric(**kwargs)


def write_per_class(prefix: str, classes: Sequence[str], columns: Mapping[str, np.ndarray]) -> None:
    """Write a table of classes to ``<prefix>.json`` and ``<prefix>.csv``.

    Args:
        prefix: Path of the files without the suffix.
        classes: Names of the rows.
        columns: Shares from 0 to 1, (classes,), written in percent. What is not a number, such as
            the IoU of a class that is in no image, becomes null in JSON and empty in CSV.
    """
    rows = [
        dict(zip(['class', *columns], [name, *map(_percent, shares)], strict=True))
        for name, *shares in zip(classes, *columns.values(), strict=True)
    ]
    write_json(Path(f'{prefix}.json'), rows)
    table = io.StringIO()
    writer = csv.DictWriter(table, ['class', *columns], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(Path(f'{prefix}.csv'), table.getvalue())


def _percent(share: float) -> float | None:
    return _number_or_none(round(100 * float(share), 4))


@METRICS.register_module()
class DumpPredictions(BaseMetric):
    """Keeps the predictions of a test run in one file, for :func:`evaluate_predictions`.

    mmengine's DumpResults writes objects that only an unpickler brings back, and an unpickler
    executes what a file tells it. This file holds tensors, strings and numbers, and is read
    weights-only.

    Args:
        out_file: The file to write.
        **kwargs: Those of BaseMetric.
    """

    default_prefix = 'dump'

    def __init__(self, out_file: str, **kwargs) -> None:
        super().__init__(**kwargs)
        self.out_file = out_file

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep one batch of predictions."""
        for sample in data_samples:
            detected = 'pred_instances' in sample
            self.results.append((_detection_record if detected else _segmentation_record)(sample))

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Write the file; there are no metrics."""
        dump = dict(format=DUMP_FORMAT, classes=tuple(self.dataset_meta['classes']), images=results)
        file = io.BytesIO()
        torch.save(dump, file)
        write_atomically(Path(self.out_file), file.getvalue())
        return {}


def _detection_record(sample: dict) -> dict:
    """What CocoMetric needs of a prediction; masks run-length encoded as it does itself."""
    predicted = sample['pred_instances']
    record = dict(
        name=sample['img_id'],
        shape=tuple(map(int, sample['ori_shape'][:2])),
        # A tensor that is a part of another would be saved with all of the other.
        **{
            key: predicted[key].cpu().clone()
            for key in ('bboxes', 'scores', 'labels', 'mask_scores')
            if key in predicted
        },
    )
    if 'masks' in predicted:
        from mmdet.structures.mask import encode_mask_results

        masks = predicted['masks']
        if isinstance(masks, torch.Tensor):
            masks = encode_mask_results(masks.cpu().numpy())
        record['masks'] = [mask['counts'].decode() for mask in masks]
    return record


def _segmentation_record(sample: dict) -> dict:
    """The label map, as the bytes of a PNG image."""
    labels = sample['pred_sem_seg']['data']
    labels = labels.reshape(labels.shape[-2:]).cpu().numpy()  # (1, H, W) or (H, W) -> (H, W)
    image = torch.from_numpy(encode_label_map(labels))
    return dict(name=_image_name(sample['img_path']), labels=image)


def encode_label_map(labels: np.ndarray) -> np.ndarray:
    """The bytes of a PNG image of labels, (H, W); of 16 bits if 8 do not hold them."""
    depth = np.uint8 if labels.max() < 256 else np.uint16
    _, image = cv2.imencode('.png', labels.astype(depth))
    return image


def _image_name(path: str) -> str:
    """What names an image on every machine."""
    return os.path.basename(path)


# --- evaluation of kept predictions ---------------------------------------------------------


def evaluate_predictions(cfg: Config, path: str) -> dict[str, float]:
    """Evaluate predictions that :class:`DumpPredictions` kept, as the test loop did.

    Neither the network nor an image is read, only the annotations.

    Args:
        cfg: A config with the test data and the metrics.
        path: The file of predictions, read weights-only.

    Returns:
        The metrics by name.

    Raises:
        FileNotFoundError: The predictions, or the annotations, are not there.
        ValueError: The file is damaged or something else, would execute code, or belongs to other
            test data than the config's; or the config has a metric that needs more.
    """
    metrics = named_metrics(cfg, COCO_METRICS + IOU_METRICS, 'evaluation without the network')
    predictions = read_predictions(path)
    init_default_scope(cfg.default_scope)
    source = cfg.test_dataloader.dataset
    dataset = DATASETS.build(source)
    check_predictions(path, predictions, dataset)
    if cfg.default_scope == 'mmdet':
        if not any('masks' in record for record in predictions['images']):
            leave_out_masks(metrics)
        samples = _detection_samples(dataset, predictions['images'])
    else:
        samples = _segmentation_samples(dataset, predictions['images'], source.get('pipeline', []))
    evaluator = Evaluator(metrics)
    evaluator.dataset_meta = dataset.metainfo
    return evaluator.offline_evaluate(samples)


def read_predictions(path: str) -> dict:
    """Read a file of predictions weights-only.

    Returns:
        ``classes``, their names, and ``images``, a record for each.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or something else, or would execute code.
    """
    predictions = read_checkpoint(path)
    _check_sums(path)
    if not _are_predictions(predictions):
        raise ValueError(
            f'expected predictions that tools/test.py kept with --dump, got a file of another '
            f'kind or version: {path!r}'
        )
    return predictions


def _are_predictions(content: Any) -> bool:
    """Whether a file holds what DumpPredictions writes, as far as the images are named."""
    return (
        isinstance(content, dict)
        and isinstance(content.get('format'), str)
        and content['format'] == DUMP_FORMAT
        and isinstance(content.get('classes'), tuple)
        and isinstance(content.get('images'), list)
        and all(
            isinstance(image, dict) and isinstance(image.get('name'), (str, int))
            for image in content['images']
        )
    )


def _check_sums(path: str) -> None:
    """Raise ValueError if the file is damaged: torch does not look at the sums that it writes."""
    if not zipfile.is_zipfile(path):
        return  # not from this module, and said by the caller
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        damaged = error
    if damaged:
        raise ValueError(f'{path!r} is damaged ({damaged}); copy it again')


def check_predictions(path: str, predictions: dict, dataset: BaseDataset) -> None:
    """Raise ValueError unless the predictions are those of every image of the test data."""
    classes = tuple(dataset.metainfo['classes'])
    if predictions['classes'] != classes:
        raise ValueError(
            f"expected predictions of the {len(classes)} classes of the config's test data, got "
            f'{len(predictions["classes"])} others in {path!r}; evaluate with the config that '
            f'they were made with'
        )
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    expected = [info.get('img_id', _image_name(info['img_path'])) for info in infos]
    found = [record['name'] for record in predictions['images']]
    if found != expected:
        missing, unknown = len(set(expected) - set(found)), len(set(found) - set(expected))
        raise ValueError(
            f"expected predictions of the {len(expected)} images of the config's test data in "
            f'their order, got {len(found)} in {path!r}: {missing} are missing, {unknown} are of '
            f'other images; evaluate with the config that they were made with'
        )


def leave_out_masks(metrics: list[ConfigDict]) -> None:
    """Evaluate boxes alone, as of detectors without masks and of merged augmentations.

    Raises:
        ValueError: A metric evaluates nothing else than masks.
    """
    for metric in metrics:
        tasks = metric.get('metric', 'bbox')
        metric.metric = [t for t in ([tasks] if isinstance(tasks, str) else tasks) if t != 'segm']
        if not metric.metric:
            raise ValueError(f'expected masks for metric={tasks!r}, found predictions without any')


def _detection_samples(dataset: BaseDataset, records: list[dict]) -> Iterator[dict]:
    """What the detector handed to the metrics, from the records of the images."""
    for i, record in enumerate(records):
        predicted = {k: v for k, v in record.items() if k not in ('name', 'shape', 'masks')}
        if 'masks' in record:
            size = list(record['shape'])
            predicted['masks'] = [dict(size=size, counts=counts) for counts in record['masks']]
        yield dict(
            img_id=record['name'],
            ori_shape=record['shape'],
            instances=dataset.get_data_info(i)['instances'],
            pred_instances=predicted,
        )


def _segmentation_samples(
    dataset: BaseDataset, records: list[dict], pipeline: list[dict]
) -> Iterator[dict]:
    """What the segmentor handed to the metrics; label maps are read as ``pipeline`` does.

    Raises:
        ValueError: The pipeline loads no annotations, or a prediction is damaged or of another
            size than its annotation.
    """
    loaders = [transform for transform in pipeline if transform['type'] == 'LoadAnnotations']
    if not loaders:
        raise ValueError("expected LoadAnnotations in the config's test pipeline, found none")
    load = TRANSFORMS.build(loaders[0])
    for i, record in enumerate(records):
        info = dataset.get_data_info(i)
        truth = torch.from_numpy(load(info)['gt_seg_map'].astype(np.int64))  # (H, W)
        labels = cv2.imdecode(record['labels'].numpy(), cv2.IMREAD_UNCHANGED)
        if labels is None or labels.shape != truth.shape:
            found = 'a damaged one' if labels is None else f'one of shape {labels.shape}'
            raise ValueError(
                f'expected a label map of shape {tuple(truth.shape)} for {record["name"]}, got '
                f'{found}; evaluate with the config that the predictions were made with'
            )
        yield dict(
            img_path=info['img_path'],
            reduce_zero_label=info['reduce_zero_label'],
            gt_sem_seg=dict(data=truth),
            pred_sem_seg=dict(data=torch.from_numpy(labels.astype(np.int64))),
        )


# --- files ----------------------------------------------------------------------------------


def write_metrics(folder: str, metrics: Mapping[str, Any]) -> Path:
    """Write ``metrics.json`` into a folder, null for what is not a number; its path."""
    path = Path(folder) / METRICS_FILE
    write_json(path, {name: _number_or_none(value) for name, value in metrics.items()})
    return path


def _number_or_none(value: Any) -> Any:
    return None if isinstance(value, Real) and not math.isfinite(value) else value


def write_json(path: Path, content: dict | list) -> None:
    """Write JSON; numbers of numpy and torch become plain ones."""
    write_atomically(path, json.dumps(content, indent=2, default=float))
