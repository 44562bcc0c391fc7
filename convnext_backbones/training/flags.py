"""The flags of ``tools/train.py``, and the changes that they make to a config."""

from __future__ import annotations

import argparse

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..config.walk import pipelines, transform_name
from ..engine.hardware import switch_amp_off
from ..engine.processes import join_process_group
from ..io.checkpoint import read_checkpoint
from ..io.files import check_file
from ..io.processes import decide_together
from .resume import newest_checkpoint
from .sharding import SHARDED_STRATEGY

# Settings of AmpOptimWrapper; None is for an OptimWrapper. bf16 has the range of fp32, so small
# gradients do not underflow and the loss needs no scaling.
PRECISIONS: dict[str, dict[str, object] | None] = {
    'fp32': None,
    'fp16': dict(dtype='float16', loss_scale='dynamic'),
    'bf16': dict(dtype='bfloat16', loss_scale=1.0),
}
PARALLEL_STRATEGIES = ('ddp', 'fsdp')


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that :func:`set_training_flags` reads."""
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='continue from PATH, or from the newest undamaged checkpoint in the work dir',
    )
    parser.add_argument(
        '--strategy',
        choices=PARALLEL_STRATEGIES,
        default='ddp',
        help='how several processes share the work: ddp keeps the whole model in each process, '
        'fsdp shards weights, gradients and optimizer state over them',
    )
    parser.add_argument(
        '--precision', choices=PRECISIONS, help='override the precision of the config; GPUs only'
    )
    parser.add_argument(
        '--amp', action='store_const', const='fp16', dest='precision', help='--precision fp16'
    )
    parser.add_argument(
        '--accumulate',
        type=int,
        metavar='N',
        help='accumulate the gradients of N batches per optimizer step. Iterations still count '
        'batches: multiply all lengths given in iterations by N for the same number of steps',
    )
    parser.add_argument(
        '--checkpointing',
        nargs='?',
        const='blocks',
        choices=('blocks', 'lean'),
        help='recompute parts of the backbone in the backward pass to save memory: whole blocks '
        '(default), or with "lean" only the cheap operations',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the number of images per optimizer step',
    )
    parser.add_argument(
        '--skip-bad-steps',
        nargs='?',
        type=int,
        const=10,
        default=0,
        metavar='N',
        help='skip steps whose losses or gradients are not finite, at most N in a row '
        '(default 10); without this flag training stops at the first',
    )
    parser.add_argument(
        '--skip-bad-images',
        action='store_true',
        help='replace an unreadable image by another one, with a warning; without this flag '
        'training stops at the first',
    )


def set_training_flags(cfg: Config, args: argparse.Namespace) -> None:
    """Apply all training flags to ``cfg``, in place.

    Args:
        cfg: A config, with ``launcher`` and ``work_dir`` set.
        args: Parsed flags of :func:`add_training_flags`.

    Raises:
        FileNotFoundError: The checkpoint to resume from does not exist.
        ValueError: A flag does not fit the config or the other flags.
    """
    if args.precision is not None:
        set_precision(cfg, args.precision)
    if args.accumulate is not None:
        set_accumulation(cfg, args.accumulate)
    if args.checkpointing is not None:
        set_checkpointing(cfg, args.checkpointing)
    if args.auto_scale_lr:
        set_lr_scaling(cfg)
    if args.strategy == 'fsdp':
        set_sharding(cfg)
    if args.skip_bad_images:
        set_bad_image_skipping(cfg)
    if args.resume is not None:
        set_resume(cfg, args.resume)


def set_precision(cfg: Config, precision: str) -> None:
    """Override the precision of ``cfg`` by one of :data:`PRECISIONS`."""
    switch_amp_off(cfg.optim_wrapper)
    settings = PRECISIONS[precision]
    if settings is not None:
        cfg.optim_wrapper.update(type='AmpOptimWrapper', **settings)


def set_checkpointing(cfg: Config, form: str) -> None:
    """Make the backbone store fewer activations for the backward pass.

    Args:
        cfg: Changed in place; an earlier choice in it is overridden.
        form: ``blocks`` sets ``with_cp``, ``lean`` sets ``memory_efficient``.

    Raises:
        ValueError: The model has no backbone.
    """
    if 'backbone' not in cfg.model:
        raise ValueError('expected a model with a backbone for --checkpointing, found none')
    backbone = cfg.model.backbone
    backbone.with_cp = form == 'blocks'
    if form == 'lean':
        backbone.memory_efficient = True
    else:
        backbone.pop('memory_efficient', None)


def set_accumulation(cfg: Config, batches: int) -> None:
    """Accumulate the gradients of several batches per optimizer step.

    Raises:
        ValueError: ``batches`` is below 1.
    """
    if batches < 1:
        raise ValueError(f'expected at least 1 batch for --accumulate, got {batches}')
    cfg.optim_wrapper.accumulative_counts = batches


def set_lr_scaling(cfg: Config) -> None:
    """Scale the learning rate linearly with the number of images per optimizer step.

    mmengine counts processes and images per batch, but not accumulated batches. The base batch
    size is therefore divided by the accumulated batches; the divisor is stored, so that a saved
    config is not divided twice.

    Raises:
        ValueError: The config has no base batch size.
    """
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise ValueError(
            'expected auto_scale_lr=dict(base_batch_size=...) in the config for '
            '--auto-scale-lr, found none; add the batch size that the learning rate is for'
        )
    batches = cfg.optim_wrapper.get('accumulative_counts', 1)
    base = cfg.auto_scale_lr.base_batch_size * cfg.auto_scale_lr.get('divided_by', 1) / batches
    cfg.auto_scale_lr.update(enable=True, base_batch_size=base, divided_by=batches)


def set_sharding(cfg: Config) -> None:
    """Train with fully sharded data parallelism; see :mod:`convnext_backbones.training.sharding`.

    Raises:
        ValueError: There is only one process, or the config clips gradients.
    """
    if cfg.launcher == 'none':
        raise ValueError(
            "expected several processes for --strategy fsdp, got --launcher 'none'; start them "
            'with tools/dist_train.sh or tools/slurm_train.sh'
        )
    if cfg.optim_wrapper.get('clip_grad'):
        raise ValueError(
            'expected no clip_grad with --strategy fsdp, under which mmengine would clip by the '
            "norm of each process's own shard; add --cfg-options optim_wrapper.clip_grad=None"
        )
    cfg.strategy = dict(cfg.get('strategy', {}), type=SHARDED_STRATEGY)


def set_bad_image_skipping(cfg: Config) -> None:
    """Make training datasets replace an unreadable image by another one.

    Raises:
        ValueError: No training pipeline loads images with LoadImageFromFile.
    """
    loaders = [
        transform
        for pipeline in pipelines(cfg.train_dataloader.dataset)
        for transform in pipeline
        if transform_name(transform) == 'LoadImageFromFile'
    ]
    if not loaders:
        raise ValueError(
            'expected LoadImageFromFile in the pipeline of train_dataloader for --skip-bad-images, '
            'found none'
        )
    for loader in loaders:
        # By name, which resolves to our loader: it logs each skipped file. mmcv's own class, which
        # the config may hold, skips them silently.
        loader.update(type='LoadImageFromFile', ignore_empty=True)


def set_resume(cfg: Config, checkpoint: str) -> None:
    """Set ``cfg`` to continue from a checkpoint.

    The order of the samples follows from the seed. If the config sets no seed, the first run drew
    one, which is read from its checkpoint.

    Args:
        cfg: Changed in place.
        checkpoint: A path, or ``auto`` for the newest undamaged checkpoint in the work dir; if
            there is none, the training starts from the beginning.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The checkpoint cannot be read or would execute code, or all checkpoints in the
            work dir are damaged.
    """
    path: str | None = checkpoint
    if checkpoint == 'auto':
        join_process_group(cfg)
        path = decide_together(lambda: newest_checkpoint(cfg.work_dir))
    else:
        check_file(checkpoint, 'a checkpoint to resume from')
    cfg.resume = path is not None
    if path is None:
        return
    cfg.load_from = path
    randomness = cfg.get('randomness', {})
    if randomness.get('seed') is None:
        cfg.randomness = dict(randomness, seed=read_checkpoint(path, mmap=True)['meta']['seed'])
    if 'backbone' in cfg.model:
        # The checkpoint holds all weights, so the pretrained ones need not exist any more.
        cfg.model.backbone.pop('init_cfg', None)


class StartMarker(Hook):
    """Record that training has started.

    Errors before that moment, such as missing weights, are due to the command or the config and
    are reported in one line; later errors keep their traceback.
    """

    work_dir: str | None = None  # of the training, once it has started

    @property
    def passed(self) -> bool:
        """Whether training has started."""
        return self.work_dir is not None

    def before_train(self, runner: Runner) -> None:
        """Record the work dir; the model, its weights, the optimizer and the data are ready."""
        self.work_dir = runner.work_dir
