"""What the flags of ``tools/train.py`` change in a config."""

from __future__ import annotations

import argparse

from mmengine.config import Config
from mmengine.hooks import Hook

from ..config.walk import pipelines, transform_name
from ..engine.hardware import switch_amp_off
from ..engine.processes import decide_together, join_process_group
from ..io.checkpoint import read_checkpoint
from ..io.files import check_file
from .resume import newest_checkpoint
from .sharding import SHARDED_STRATEGY

# AmpOptimWrapper's settings. bf16 has the range of fp32: nothing underflows, so nothing is scaled.
PRECISIONS = {
    'fp32': None,
    'fp16': dict(dtype='float16', loss_scale='dynamic'),
    'bf16': dict(dtype='bfloat16', loss_scale=1.0),
}
STRATEGIES = ('ddp', 'fsdp')


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that :func:`apply_training_flags` reads."""
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='continue from PATH, or from the newest checkpoint of the work dir',
    )
    parser.add_argument(
        '--strategy',
        choices=STRATEGIES,
        default='ddp',
        help='how several processes share the work: ddp keeps the whole model in each, fsdp '
        'shards weights, gradients and optimizer state over them (see the top of this file)',
    )
    parser.add_argument(
        '--precision', choices=PRECISIONS, help='instead of what the config says; GPUs only'
    )
    parser.add_argument(
        '--amp', action='store_const', const='fp16', dest='precision', help='--precision fp16'
    )
    parser.add_argument(
        '--accumulate',
        type=int,
        metavar='N',
        help='add up the gradients of N batches per step of the optimizer. Iterations count '
        'batches: multiply lengths given in iterations by N for as many steps',
    )
    parser.add_argument(
        '--checkpointing',
        nargs='?',
        const='blocks',
        choices=('blocks', 'lean'),
        help='compute parts of the backbone again in the backward pass, for less memory: whole '
        'blocks (default), or with lean only what costs little',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the number of images per step of the optimizer',
    )
    parser.add_argument(
        '--skip-bad-steps',
        nargs='?',
        type=int,
        const=10,
        default=0,
        metavar='N',
        help='leave out steps whose losses or gradients are not finite, at most N in a row '
        '(default 10); without it training stops at the first',
    )
    parser.add_argument(
        '--skip-bad-images',
        action='store_true',
        help='train with another image in place of one that cannot be read, with a warning; '
        'without it training stops at the first',
    )


def set_training_flags(cfg: Config, args: argparse.Namespace) -> None:
    """Write the flags into ``cfg``.

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
    """Train in one of :data:`PRECISIONS`, whatever ``cfg`` says."""
    switch_amp_off(cfg.optim_wrapper)
    if PRECISIONS[precision] is not None:
        cfg.optim_wrapper.update(type='AmpOptimWrapper', **PRECISIONS[precision])


def set_checkpointing(cfg: Config, form: str) -> None:
    """Let the backbone keep less for the backward pass, whatever ``cfg`` says.

    Args:
        cfg: Changed in place.
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
    """Make a step of the optimizer of the gradients of several batches.

    Raises:
        ValueError: ``batches`` is below 1.
    """
    if batches < 1:
        raise ValueError(f'expected at least 1 batch for --accumulate, got {batches}')
    cfg.optim_wrapper.accumulative_counts = batches


def set_lr_scaling(cfg: Config) -> None:
    """Let mmengine scale the learning rate linearly, in images per step of the optimizer.

    mmengine counts processes and the batch size, but not accumulated batches: the base is
    divided by those, and their number noted, as the config that a run leaves may be trained again.

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
    """Train under fully sharded data parallelism; see :mod:`convnext_backbones.sharding`.

    Raises:
        ValueError: There is one process only, or the config clips gradients.
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
    """Let datasets draw another image for training where one cannot be read.

    Raises:
        ValueError: Images are not loaded by LoadImageFromFile.
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
        # By its name, which says what was left out; a class of mmcv would do so without a word.
        loader.update(type='LoadImageFromFile', ignore_empty=True)


def set_resume(cfg: Config, checkpoint: str) -> None:
    """Continue from ``checkpoint``, or from the newest whole one of the work dir if it is ``auto``.

    The order of the samples follows from the seed. A run whose config names none has drawn one;
    its checkpoint tells which.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The checkpoint cannot be read or would execute code, or all of the work dir are
            damaged.
    """
    path: str | None = checkpoint
    if checkpoint == 'auto':
        join_process_group(cfg)
        path = decide_together(lambda: newest_checkpoint(cfg.work_dir))
    else:
        check_file(checkpoint, 'a checkpoint to resume from')
    cfg.resume = path is not None
    if not cfg.resume:  # the run starts like any other, with its warnings
        return
    cfg.load_from = path
    randomness = cfg.get('randomness', {})
    if randomness.get('seed') is None:
        cfg.randomness = dict(randomness, seed=read_checkpoint(path, mmap=True)['meta']['seed'])
    if 'backbone' in cfg.model:
        # The checkpoint holds all weights: those to start from need not be there any more.
        cfg.model.backbone.pop('init_cfg', None)


class StartMarker(Hook):
    """Notes that training has started.

    What fails before, such as weights that are not there, is a matter of the command or the
    config; what fails afterwards is not.
    """

    work_dir: str | None = None  # of the training, once it has started

    @property
    def passed(self) -> bool:
        """Whether it has."""
        return self.work_dir is not None

    def before_train(self, runner) -> None:
        """Called when the model, its weights, the optimizer and the data are ready."""
        self.work_dir = runner.work_dir
