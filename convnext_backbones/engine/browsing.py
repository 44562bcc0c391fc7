"""Draw samples of a dataset as they leave its pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope
from mmengine.runner import set_random_seed
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from rich.progress import track

from ..config.walk import annotated_dataset, pipelines, transform_name
from ..io.drawing import drawable, to_8_bits
from ..io.mmengine_patches import read_files_safely
from .transforms import name_unreadable_files

SPLITS = ('train', 'val', 'test')
# Of masks and label maps, unless the config sets it; the toolboxes' default of 0.8 hides the image.
ALPHA = 0.5


def draw_samples(cfg: Config, split: str, number: int, seed: int, out: Path) -> tuple[int, int]:
    """Draw samples into files ``OUT/NUMBER_NAME.png``.

    Args:
        cfg: A detection or segmentation config.
        split: One of :data:`SPLITS`.
        number: The most samples to draw. More samples begin with the same ones.
        seed: Of the choice of samples and of their augmentation.
        out: Folder to write; created if it does not exist.

    Returns:
        The number of samples that were drawn, and the number in the dataset.

    Raises:
        FileNotFoundError: The data are missing.
        ValueError: ``number`` is below 1, or there is nothing to draw.
    """
    if number < 1:
        raise ValueError(f'expected --number to be at least 1, got {number}')
    read_files_safely()
    init_default_scope(cfg.default_scope)
    name_unreadable_files(cfg.default_scope)
    config = dataset_config(cfg, split)
    dataset = build_dataset(config)
    browser = Browser(cfg, config, dataset.metainfo)
    out.mkdir(parents=True, exist_ok=True)
    set_random_seed(seed)
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:number]
    for position, index in enumerate(track(chosen, description='drawing')):
        sample = dataset[int(index)]
        name = Path(sample['data_samples'].get('img_path', f'sample{index}')).stem
        browser.draw(sample, out / f'{position:03d}_{name}.png')
    return len(chosen), len(dataset)


def dataset_config(cfg: Config, split: str) -> ConfigDict:
    """Return the config of the dataset of a split, with annotations at the size of the images.

    Raises:
        ValueError: There is no such dataset, or it loads no annotations.
    """
    if split != 'train':
        return annotated_dataset(cfg, split)
    if not cfg.get('train_dataloader'):
        raise ValueError('expected train_dataloader in the config, found none')
    return cfg.train_dataloader.dataset


def build_dataset(config: ConfigDict) -> Any:
    """Return the dataset of a config.

    Raises:
        FileNotFoundError: Its annotations or its folders are missing.
        ValueError: It is empty.
    """
    dataset: Sequence[dict] = ()
    try:
        dataset = DATASETS.build(config)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'expected the data of the config, found nothing at {str(error.filename)!r}; check '
            'data_root, ann_file and data_prefix'
        ) from error
    except ValueError as error:
        # numpy's message when mmengine serializes an empty dataset.
        if 'at least one array' not in str(error):
            raise
    if len(dataset) == 0:
        while 'dataset' in config:  # a wrapper names no files
            config = config.dataset
        named = [key for key in ('data_root', 'ann_file', 'data_prefix') if key in config]
        places = ', '.join(f'{key}={config[key]!r}' for key in named)
        raise ValueError(f'expected a dataset with samples, found none for {places}')
    return dataset


class Browser:
    """Draws samples of one dataset.

    Args:
        cfg: A detection or segmentation config.
        config: The config of the dataset, as it was built.
        metainfo: Names and colors of its classes.
    """

    def __init__(self, cfg: Config, config: ConfigDict, metainfo: dict[str, Any]) -> None:
        self.visualizer: Visualizer = VISUALIZERS.build(
            dict(alpha=ALPHA) | dict(cfg.visualizer) | dict(name='browse_data', vis_backends=None)
        )
        self.visualizer.dataset_meta = metainfo
        transforms = [transform for pipeline in pipelines(config) for transform in pipeline]
        normalizing = [t for t in transforms if transform_name(t) == 'Normalize']
        self.normalize = normalizing[-1] if normalizing else None
        preprocessor = cfg.model.get('data_preprocessor', {})
        # Images are loaded as BGR. Normalize may convert them; a model that wants BGR converts RGB.
        self.is_rgb = preprocessor.get('rgb_to_bgr', False) or (
            self.normalize is not None and self.normalize.get('to_rgb', True)
        )

    def draw(self, sample: dict[str, Any], out_file: Path) -> None:
        """Draw one sample of the dataset into a file."""
        data_sample: BaseDataElement = sample['data_samples']
        instances = data_sample.get('gt_instances', ())
        if 'bboxes' in instances:
            from mmdet.structures.bbox import get_box_tensor

            instances.bboxes = get_box_tensor(instances.bboxes)
        self.visualizer.add_datasample(
            name=out_file.stem,
            image=self.image(sample['inputs']),
            data_sample=data_sample,
            draw_pred=False,
            out_file=str(out_file),
        )

    def image(self, inputs: torch.Tensor) -> np.ndarray:
        """Return the image of a sample in natural colors.

        Args:
            inputs: (C, H, W), as the data preprocessor of the model gets it.

        Returns:
            (H, W, 3), uint8, RGB; see :func:`~convnext_backbones.io.drawing.drawable`.
        """
        image = inputs.permute(1, 2, 0).numpy()
        if self.normalize is not None:
            mean, std = (np.array(self.normalize[key], np.float64) for key in ('mean', 'std'))
            image = image * std + mean
        if image.shape[2] == 3 and self.is_rgb:
            return to_8_bits(image)
        return np.ascontiguousarray(drawable(image)[..., ::-1])
