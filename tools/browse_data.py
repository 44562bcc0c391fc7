"""Draw what a model is trained on: tools/browse_data.py CONFIG [flags].

Writes DIR/NUMBER_NAME.png for samples of the dataset as they leave its pipeline, augmented, with
their boxes, masks and class names or with their label map. A picture has the size of its sample.
Annotations of the validation and test data are shown at the size of the image that the network
gets, at which the pipelines for evaluation do not have them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope
from mmengine.runner import set_random_seed
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from rich.progress import track

from convnext_backbones.config.flags import config_parser
from convnext_backbones.config.loading import load_config
from convnext_backbones.config.walk import annotated_dataset, pipelines, transform_name
from convnext_backbones.engine.transforms import name_unreadable_files
from convnext_backbones.io.mmengine_patches import read_files_safely

SPLITS = ('train', 'val', 'test')
ALPHA = 0.5  # of masks and label maps, where the config leaves the toolbox's 0.8, which hides more


def dataset_config(cfg: Config, split: str) -> ConfigDict:
    """The config of the dataset of a split, with annotations that fit the images.

    Raises:
        ValueError: There is no such dataset, or it loads no annotations.
    """
    if split != 'train':
        return annotated_dataset(cfg, split)
    if not cfg.get('train_dataloader'):
        raise ValueError('expected train_dataloader in the config, found none')
    return cfg.train_dataloader.dataset


def build_dataset(config: ConfigDict) -> BaseDataset:
    """The dataset of a config.

    Raises:
        FileNotFoundError: Its annotations or its folders are missing.
        ValueError: It is empty.
    """
    try:
        dataset = DATASETS.build(config)
    except FileNotFoundError as error:
        raise FileNotFoundError(_missing(error)) from error
    except ValueError as error:
        # What numpy says in mmengine of an empty dataset.
        if 'at least one array' not in str(error):
            raise
        dataset = ()
    if len(dataset) == 0:
        while 'dataset' in config:  # a wrapper names no files
            config = config.dataset
        named = [key for key in ('data_root', 'ann_file', 'data_prefix') if key in config]
        places = ', '.join(f'{key}={config[key]!r}' for key in named)
        raise ValueError(f'expected a dataset with samples, found none for {places}')
    return dataset


def _missing(error: FileNotFoundError) -> str:
    return (
        f'expected the data of the config, found nothing at {str(error.filename)!r}; check '
        'data_root, ann_file and data_prefix'
    )


class Browser:
    """Draws samples of one dataset.

    Args:
        cfg: A detection or segmentation config.
        config: The part of it, or a version of that part, that is the dataset's.
        dataset: The dataset.
    """

    def __init__(self, cfg: Config, config: ConfigDict, dataset: BaseDataset) -> None:
        self.visualizer: Visualizer = VISUALIZERS.build(
            dict(alpha=ALPHA) | dict(cfg.visualizer) | dict(name='browse_data', vis_backends=None)
        )
        self.visualizer.dataset_meta = dataset.metainfo
        transforms = [transform for pipeline in pipelines(config) for transform in pipeline]
        normalizing = [t for t in transforms if transform_name(t) == 'Normalize']
        self.normalize = normalizing[-1] if normalizing else None
        preprocessor = cfg.model.get('data_preprocessor', {})
        # The loaders' order is BGR, until a transform or a model that wants BGR says otherwise.
        self.is_rgb = preprocessor.get('rgb_to_bgr', False) or (
            self.normalize is not None and self.normalize.get('to_rgb', True)
        )

    def draw(self, sample: dict, out_file: Path) -> None:
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
        """The image of a sample as people see it.

        Args:
            inputs: (C, H, W) with 1 or 3 channels, as the preprocessor of the model gets it.

        Returns:
            (H, W, 3), uint8, RGB.
        """
        image = inputs.permute(1, 2, 0).numpy()
        if image.shape[2] not in (1, 3):
            raise ValueError(f'expected images of 1 or 3 channels, got {image.shape[2]}')
        if self.normalize is not None:
            mean, std = (np.array(self.normalize[key], np.float64) for key in ('mean', 'std'))
            image = image * std + mean
        image = image.round().clip(0, 255).astype(np.uint8)
        if image.shape[2] == 1:
            return mmcv.gray2rgb(image)
        return image if self.is_rgb else mmcv.bgr2rgb(image)


def run(args: argparse.Namespace) -> None:
    """Draw the samples.

    Raises:
        FileNotFoundError: The config or its data are missing.
        ValueError: There is nothing to draw.
    """
    if args.number < 1:
        raise ValueError(f'expected --number to be at least 1, got {args.number}')
    cfg = load_config(args.config, args.cfg_options)
    read_files_safely()
    init_default_scope(cfg.default_scope)
    name_unreadable_files(cfg.default_scope)
    config = dataset_config(cfg, args.split)
    dataset = build_dataset(config)
    browser = Browser(cfg, config, dataset)
    out = args.out or Path('work_dirs') / Path(args.config).stem / f'samples_{args.split}'
    out.mkdir(parents=True, exist_ok=True)
    # More samples begin with the same ones.
    set_random_seed(args.seed)
    chosen = np.random.default_rng(args.seed).permutation(len(dataset))[: args.number]
    for number, index in enumerate(track(chosen, description='drawing')):
        sample = dataset[int(index)]
        name = Path(sample['data_samples'].get('img_path', f'sample{index}')).stem
        browser.draw(sample, out / f'{number:03d}_{name}.png')
    print(f'{len(chosen)} of {len(dataset)} samples are in {out}')


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = config_parser(__doc__.splitlines()[0])
    parser.add_argument(
        '--out',
        type=Path,
        metavar='DIR',
        help='folder to write (default: work_dirs/CONFIG/samples_SPLIT)',
    )
    parser.add_argument('--number', type=int, default=10, help='of samples (default %(default)s)')
    parser.add_argument('--split', choices=SPLITS, default='train', help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='of choice and augmentation')
    try:
        run(parser.parse_args(argv))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'browse_data: {error}')


if __name__ == '__main__':
    main()
