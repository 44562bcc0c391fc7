"""Train ours and OpenMMLab's ConvNeXt side by side and compare the losses, step by step.

    python dev/compare_training.py            # both of the following
    python dev/compare_training.py upernet    # UperNet-T of mmseg
    python dev/compare_training.py cascade    # Cascade Mask R-CNN-T of mmdet

One side is a config of this package with its backbone and its optimizer constructor; the other is
the config that mmdet or mmseg ships, with mmpretrain's backbone and their constructor. Both start
from the same random weights and see the same generated images in the same order, each through its
own pipeline. Settings that differ between the recipes (the schedule), that are random (stochastic
depth) or that a CPU lacks (mixed precision) are made equal; image sizes, and for the detector the
number of sampled regions, are reduced on both sides.

Both compute in double precision. In single precision, rounding errors grow from step to step and
dominate the comparison: ``--dtype float32`` shows it.

The exit status is 1 if a loss differs by more than the tolerance. A detector selects proposals and
samples regions. The last column of the table names the first selection in which the two sides
differ, if any; from there on they train on different regions.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.hub import get_config
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from support.peer_models import PEERS
from torch import Tensor, nn

from convnext_backbones.config.walk import walk
from convnext_backbones.engine.hardware import switch_amp_off
from convnext_backbones.engine.runner import build_runner
from convnext_backbones.training.resume import ResumableRandomnessHook
from tools.make_sample_data import DIGITS, Options, make_sample_data

ROOT = Path(__file__).parent.parent
PEER = PEERS['mmpretrain']
PREFIX = 'backbone.'
REDUCTION = 8  # image sides of the recipes are divided by this
SAMPLED_REGIONS = 8  # per image and stage of the cascade
WARM_UP = 10  # iterations; with the recipes' 500 or more, twenty steps would hardly change weights
SIZES = ('scale', 'scales', 'crop_size', 'size')  # entries of configs with image sizes
DTYPES = {'float64': torch.float64, 'float32': torch.float32}


@dataclass(frozen=True)
class Pair:
    """The two configs of one experiment.

    Attributes:
        ours: A file in ``configs/``.
        upstream: A config of a toolbox, as ``package::path``.
        batch_size: Images per step.
        tolerance: Largest relative difference of losses.
    """

    ours: str
    upstream: str
    batch_size: int
    tolerance: float


PAIRS = {
    'upernet': Pair(
        'upernet_convnext_t.py',
        'mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
        # BatchNorm has one value per image in the branch that pools to a single position.
        4,
        1e-4,
    ),
    'cascade': Pair(
        'cascade_mask_rcnn_convnext_t.py',
        'mmdet::convnext/'
        'cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py',
        2,
        1e-3,
    ),
}


@dataclass
class Choice:
    """The regions that a sampler took: the indices of positive and negative ones, and all boxes."""

    place: str
    indices: tuple[list[int], list[int]]
    boxes: Tensor

    def equals(self, other: Choice) -> bool:
        """Whether the same regions were taken; differences below 0.01 pixels are rounding."""
        return self.indices == other.indices and torch.allclose(
            self.boxes, other.boxes, rtol=0, atol=1e-2
        )


class RecordingHook(Hook):
    """Set the initial weights, then record the loss and the sampled regions of every step.

    Args:
        weights: Initial weights; None to keep those of the model.
        dtype: The type in which the model computes.
    """

    def __init__(self, weights: dict[str, Tensor] | None, dtype: torch.dtype) -> None:
        self.weights = weights
        self.dtype = dtype
        self.losses: list[float] = []
        self.choices: list[list[Choice]] = []
        self._current: list[Choice] = []

    def before_train(self, runner: Runner) -> None:
        """Replace the weights, after mmengine has initialized the model."""
        runner.model.to(self.dtype)
        if self.weights is None:
            self.weights = {k: v.clone() for k, v in runner.model.state_dict().items()}
        else:
            runner.model.load_state_dict(to_upstream(self.weights, runner.model))
        for place, sampler in samplers(runner.model):
            self._record(place, sampler)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Keep the loss and the choices of this step."""
        assert outputs is not None
        self.losses.append(outputs['loss'].item())
        self.choices.append(self._current)
        self._current = []

    def _record(self, place: str, sampler: Any) -> None:
        original = sampler.sample

        def sample(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            indices = result.pos_inds.tolist(), result.neg_inds.tolist()
            self._current.append(Choice(place, indices, result.priors.detach().clone()))
            return result

        sampler.sample = sample


def samplers(model: nn.Module) -> list[tuple[str, object]]:
    """Return the region samplers of a cascade with their places; none for a segmentor."""
    rpn: Any = getattr(model, 'rpn_head', None)
    roi: Any = getattr(model, 'roi_head', None)
    if roi is None:
        return []
    stages = enumerate(roi.bbox_sampler, start=1)
    return [('RPN', rpn.sampler), *((f'stage {i}', sampler) for i, sampler in stages)]


def to_upstream(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return our weights under the names of the upstream model."""
    names = {
        key: PREFIX + PEER.rename(key.removeprefix(PREFIX)) if key.startswith(PREFIX) else key
        for key in model.state_dict()
    }
    assert sorted(names.values()) == sorted(weights)
    return {key: weights[name] for key, name in names.items()}


def divide(value: Any) -> Any:
    """Divide all numbers of a size, or of a list of sizes, by :data:`REDUCTION`."""
    if isinstance(value, (list, tuple)):
        return type(value)(divide(v) for v in value)
    return round(value / REDUCTION)


def reduce_sizes(node: object) -> None:
    """Reduce the image sizes in a part of a config."""
    for _, part in walk(node):
        for key in SIZES:
            if part.get(key) is not None:
                part[key] = divide(part[key])


def set_equal(cfg: Config, data: Path, work_dir: Path, steps: int, batch_size: int) -> None:
    """Set the data, length and schedule of a side, and remove everything else that may differ.

    Args:
        cfg: The config of either side, changed in place.
        data: Generated data, see ``tools/make_sample_data.py``.
        work_dir: The folder for the logs.
        steps: Number of iterations.
        batch_size: Images per step.
    """
    loader = cfg.train_dataloader
    loader.update(batch_size=batch_size, num_workers=0, persistent_workers=False)
    reduce_sizes(loader.dataset.pipeline)
    reduce_sizes(cfg.model.data_preprocessor)
    if cfg.default_scope == 'mmdet':
        loader.dataset.update(
            data_root=str(data / 'coco'),
            ann_file='annotations/instances_train.json',
            data_prefix=dict(img='train/'),
            metainfo=dict(classes=DIGITS),
        )
        for stage in cfg.model.train_cfg.rcnn:
            stage.sampler.num = SAMPLED_REGIONS
    else:
        loader.dataset.data_root = str(data / 'ade20k')
    cfg.model.backbone.update(init_cfg=None, drop_path_rate=0.0)
    switch_amp_off(cfg.optim_wrapper)
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=WARM_UP)]
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=steps)
    for split in ('val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg.pop(f'{split}_{part}', None)
    cfg.update(
        default_hooks=dict(checkpoint=None),
        custom_hooks=[],
        log_processor=dict(by_epoch=False),
        log_level='ERROR',
        launcher='none',
        randomness=dict(seed=0),
        work_dir=str(work_dir),
    )


@dataclass
class Comparison:
    """The records of both sides.

    Attributes:
        ours: Loss of every step.
        upstream: The same on the other side.
        parted: Per step, the first place where the sides chose different regions, or None.
    """

    ours: list[float]
    upstream: list[float]
    parted: list[str | None] = field(default_factory=list)

    @property
    def differences(self) -> list[float]:
        """Differences of the losses, relative to upstream's."""
        return [abs(a - b) / abs(b) for a, b in zip(self.ours, self.upstream, strict=True)]


def load_side(side: str) -> Config:
    """Return the config of one side: ours, or one that a toolbox ships."""
    # Imports mmpretrain before mmdet does, which leaves it half-imported if its import fails.
    PEER.build('atto')
    return get_config(side) if '::' in side else Config.fromfile(ROOT / 'configs' / side)


@contextmanager
def nms_in_single_precision() -> Iterator[None]:
    """Run mmcv's non-maximum suppression in single precision, the only one it has on the CPU.

    It only selects boxes; the selected ones keep their precision.
    """
    from mmdet.models.dense_heads import rpn_head

    batched_nms = rpn_head.batched_nms

    def nms(boxes: Tensor, scores: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return batched_nms(boxes.float(), scores.float(), *args, **kwargs)

    with mock.patch.object(rpn_head, 'batched_nms', nms):
        yield


def compare(pair: Pair, data: Path, work_dir: Path, steps: int, dtype: torch.dtype) -> Comparison:
    """Train both sides of ``pair`` on the images in ``data``, from the same weights."""
    weights: dict[str, Tensor] | None = None
    records: list[RecordingHook] = []
    for name in ('ours', 'upstream'):
        cfg = load_side(getattr(pair, name))
        folder = work_dir / name
        set_equal(cfg, data, folder, steps, pair.batch_size)
        cfg.experiment_name = f'{work_dir.name}_{folder.name}'
        record = RecordingHook(weights, dtype)
        runner = build_runner(cfg)
        runner.register_hook(ResumableRandomnessHook())
        runner.register_hook(record)
        print(f'{work_dir.name}: training {name}, {steps} steps', file=sys.stderr)
        with nms_in_single_precision() if cfg.default_scope == 'mmdet' else nullcontext():
            runner.train()
        weights = record.weights
        records.append(record)
    ours, upstream = records
    parted = [
        next((a.place for a, b in zip(*choices, strict=True) if not a.equals(b)), None)
        for choices in zip(ours.choices, upstream.choices, strict=True)
    ]
    return Comparison(ours.losses, upstream.losses, parted)


@contextmanager
def silence() -> Iterator[None]:
    """Suppress the warnings of the toolboxes, and mmseg's print of its parameter groups."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def print_table(name: str, tolerance: float, comparison: Comparison) -> None:
    """Print one row per step, and the largest difference."""
    table = Table('step', 'loss, ours', 'loss, upstream', 'relative difference', 'choices part at')
    rows = zip(
        comparison.ours, comparison.upstream, comparison.differences, comparison.parted, strict=True
    )
    for step, (ours, upstream, difference, parted) in enumerate(rows, start=1):
        table.add_row(str(step), f'{ours:.7f}', f'{upstream:.7f}', f'{difference:.1e}', parted)
    Console(width=100).print(table)
    worst = max(comparison.differences)
    verdict = 'within' if worst <= tolerance else 'BEYOND'
    print(f'{name}: largest relative difference {worst:.1e}, {verdict} {tolerance:g}')


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 1 if a loss differs by more than the tolerance, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('experiments', nargs='*', metavar='NAME', help=' or '.join(PAIRS))
    parser.add_argument('--steps', type=int, default=20)
    parser.add_argument('--dtype', choices=DTYPES, default='float64')
    args = parser.parse_args(argv)
    unknown = set(args.experiments) - set(PAIRS)
    if unknown:
        parser.error(f'expected {" or ".join(PAIRS)}, got {", ".join(sorted(unknown))}')
    if not PEER.installed():
        parser.error('mmpretrain is not installed; pip install mmpretrain')
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in args.experiments or PAIRS:
            pair, work_dir = PAIRS[name], Path(folder) / name
            data = work_dir / 'data'
            make_sample_data(data, Options(args.steps * pair.batch_size, 1, 160, seed=0))
            with silence():
                comparison = compare(pair, data, work_dir, args.steps, DTYPES[args.dtype])
            print_table(name, pair.tolerance, comparison)
            failed |= max(comparison.differences) > pair.tolerance
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
