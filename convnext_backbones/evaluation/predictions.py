"""Evaluation: what the flags of tools/test.py change in a config, the metrics that they name, and
predictions that are kept and evaluated again without the network.

Importing this module registers ``FastCocoMetric``, ``PerClassIoUMetric`` and ``DumpPredictions``
in mmengine's root registry. It needs torch and mmengine only: what stems from mmdet or mmseg is
made when a config asks for it.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.registry import DATASETS, METRICS, TRANSFORMS, init_default_scope

from ..io.checkpoint import read_checkpoint
from ..io.files import write_atomically
from ..io.label_maps import encode_label_map
from ..io.mmengine_patches import read_files_safely
from .flags import COCO_METRICS, IOU_METRICS, named_metrics

# Marks a file of predictions; the number rises when the records change.
DUMP_FORMAT = 'convnext_backbones predictions 1'


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


def _image_name(path: str) -> str:
    """What names an image on every machine."""
    return os.path.basename(path)


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
    read_files_safely()
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
