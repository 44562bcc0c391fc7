"""Keep the predictions of a test run, and evaluate them again without the network.

Importing this module registers ``DumpPredictions`` in mmengine's root registry; it imports neither
mmdet nor mmseg.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.registry import DATASETS, METRICS, init_default_scope

from ..io.checkpoint import check_sums, read_checkpoint
from ..io.files import write_atomically
from ..io.label_maps import encode_label_map
from ..io.mmengine_patches import read_files_safely
from .flags import COCO_METRICS, IOU_METRICS, named_metrics
from .label_map_pairs import annotation_loader, read_label_maps

# Identifies a file of predictions; the number rises when the format of the records changes.
DUMP_FORMAT = 'convnext_backbones predictions 1'


@METRICS.register_module()
class DumpPredictions(BaseMetric):
    """Metric that keeps the predictions of a test run, in memory and in a file.

    :func:`evaluate_predictions` reads the file. mmengine's DumpResults writes pickled objects,
    which can execute code when they are read. This file holds tensors, strings and numbers only,
    and is read weights-only.

    Args:
        out_file: The file to write; None keeps the predictions in memory only.
        **kwargs: Arguments of BaseMetric.

    Attributes:
        records: The predictions of all images, after the evaluation, in the first process.
    """

    default_prefix = 'dump'

    def __init__(self, out_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.out_file = out_file
        self.records: list[dict] = []

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Record the predictions of one batch."""
        for sample in data_samples:
            detected = 'pred_instances' in sample
            self.results.append((_detection_record if detected else _segmentation_record)(sample))

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Keep the records, and write the file if there is one; return no metrics."""
        self.records = results
        if self.out_file is None:
            return {}
        dump = dict(format=DUMP_FORMAT, classes=tuple(self.dataset_meta['classes']), images=results)
        file = io.BytesIO()
        torch.save(dump, file)
        write_atomically(Path(self.out_file), file.getvalue())
        return {}


def _detection_record(sample: dict) -> dict:
    """Return what CocoMetric reads of a prediction, masks run-length encoded in its way.

    The encoded masks replace those of ``sample``, so that CocoMetric does not encode them again.
    """
    predicted = sample['pred_instances']
    record = dict(
        name=sample['img_id'],
        shape=tuple(map(int, sample['ori_shape'][:2])),
        # Cloned, because torch saves the whole storage of a view.
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
            masks = predicted['masks'] = encode_mask_results(masks.cpu().numpy())
        record['masks'] = [mask['counts'].decode() for mask in masks]
    return record


def _segmentation_record(sample: dict) -> dict:
    """Return the label map as the bytes of a PNG image."""
    labels = sample['pred_sem_seg']['data']
    labels = labels.reshape(labels.shape[-2:]).cpu().numpy()  # (1, H, W) or (H, W) -> (H, W)
    image = torch.from_numpy(encode_label_map(labels))
    return dict(name=_image_name(sample['img_path']), labels=image)


def _image_name(path: str) -> str:
    """Return the name of an image that is the same on every machine."""
    return os.path.basename(path)


def evaluate_predictions(
    cfg: Config, path: str
) -> tuple[dict[str, float], BaseDataset, list[dict]]:
    """Evaluate predictions written by :class:`DumpPredictions`, as the test loop does.

    Reads the annotations, but neither the network nor images.

    Args:
        cfg: A config with the test data and the metrics.
        path: The file of predictions, read weights-only.

    Returns:
        The metrics by name, the test data, and the predictions of their images.

    Raises:
        FileNotFoundError: The file of predictions or the annotations do not exist.
        ValueError: The file is damaged, is not a file of predictions, would execute code, or
            belongs to other test data; or a metric of the config needs more than the file has.
    """
    metrics = named_metrics(cfg, COCO_METRICS + IOU_METRICS, 'evaluation without the network')
    predictions = read_predictions(path)
    init_default_scope(cfg.default_scope)
    read_files_safely()  # datasets read annotations through mmengine
    source = cfg.test_dataloader.dataset
    dataset = DATASETS.build(source)
    check_predictions(path, predictions, dataset)
    if cfg.default_scope == 'mmdet':
        if not any('masks' in record for record in predictions['images']):
            drop_mask_metrics(metrics)
        samples = _detection_samples(dataset, predictions['images'])
    else:
        samples = _segmentation_samples(dataset, predictions['images'], source.get('pipeline', []))
    evaluator = Evaluator(metrics)
    evaluator.dataset_meta = dataset.metainfo
    return evaluator.offline_evaluate(samples), dataset, predictions['images']


def read_predictions(path: str) -> dict:
    """Read a file of predictions weights-only.

    Returns:
        A dict of ``classes``, the names, and ``images``, a list of one record per image.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, is not a file of predictions, or would execute code.
    """
    predictions = read_checkpoint(path)
    check_sums(path)
    if not _are_predictions(predictions):
        raise ValueError(
            'expected predictions written by tools/test.py --dump, got a file of another kind or '
            f'version: {path!r}'
        )
    return predictions


def _are_predictions(content: Any) -> bool:
    """Whether ``content`` looks like the output of DumpPredictions with a name for each image."""
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


def check_predictions(path: str, predictions: dict, dataset: BaseDataset) -> None:
    """Check that the predictions belong to the test data, image by image.

    Args:
        path: The file, for messages.
        predictions: The content of the file.
        dataset: The test data.

    Raises:
        ValueError: The classes, the images or their order differ.
    """
    classes = tuple(dataset.metainfo['classes'])
    if predictions['classes'] != classes:
        raise ValueError(
            f"expected predictions of the {len(classes)} classes of the config's test data, got "
            f'{len(predictions["classes"])} others in {path!r}; evaluate with the config that '
            'made them'
        )
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    expected = [info.get('img_id', _image_name(info['img_path'])) for info in infos]
    found = [record['name'] for record in predictions['images']]
    if found != expected:
        missing, unknown = len(set(expected) - set(found)), len(set(found) - set(expected))
        raise ValueError(
            f"expected predictions of the {len(expected)} images of the config's test data in "
            f'their order, got {len(found)} in {path!r}: {missing} are missing, {unknown} are of '
            'other images; evaluate with the config that made them'
        )


def drop_mask_metrics(metrics: list[ConfigDict]) -> None:
    """Evaluate boxes only, for predictions without masks.

    Raises:
        ValueError: A metric evaluates masks only.
    """
    for metric in metrics:
        tasks = metric.get('metric', 'bbox')
        metric.metric = [t for t in ([tasks] if isinstance(tasks, str) else tasks) if t != 'segm']
        if not metric.metric:
            raise ValueError(f'expected masks for metric={tasks!r}, found predictions without any')


def _detection_samples(dataset: BaseDataset, records: list[dict]) -> Iterator[dict]:
    """Yield what a detector passes to the metrics, made from the records of the images."""
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
    """Yield what a segmentor passes to the metrics, made from the records of the images.

    The pipeline's LoadAnnotations reads the true label maps.

    Raises:
        ValueError: The pipeline loads no annotations, or a prediction is damaged or differs in
            size from its annotation.
    """
    load = annotation_loader(pipeline)
    for i, record in enumerate(records):
        info = dataset.get_data_info(i)
        truth, labels = read_label_maps(info, record, load)
        yield dict(
            img_path=info['img_path'],
            reduce_zero_label=info['reduce_zero_label'],
            gt_sem_seg=dict(data=torch.from_numpy(truth)),
            pred_sem_seg=dict(data=torch.from_numpy(labels.astype(np.int64))),
        )
