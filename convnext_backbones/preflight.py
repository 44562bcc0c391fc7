"""The check of a config before it is trained: what would cost a night, in seconds.

:func:`find_faults` compares the model with the data, the data with their files, and the settings
of the training with the machine. It reads files, and changes and downloads none. ``tools/check.py``
prints what it finds; ``tools/train.py`` calls :func:`refuse_faults`.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

from mmengine import registry
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope, Registry
from torch import Tensor, nn

from .checkpoint import read_checkpoint
from .classes import CLASS_AGNOSTIC
from .complexity import build_on_meta
from .download import SCHEMES, find_downloaded, is_url, may_download
from .findings import ERROR, WARNING, Finding, Kind, errors_first, several, spell
from .hardware import switch_amp_off
from .launch import config_errors
from .preflight_coco import check_coco
from .preflight_data import Source, build_sources
from .preflight_labels import UNLABELLED, check_label_maps
from .weights import PUBLISHED, PretrainedConvNeXt, load_weights, weights_file

PACKAGE = __package__
SPLITS = ('train', 'val', 'test')
# By launcher, the variables that tell a process how many there are, and which one it is.
LAUNCHER_VARIABLES = {
    'pytorch': ('WORLD_SIZE', 'RANK'),
    'slurm': ('SLURM_NTASKS', 'SLURM_PROCID'),
    'mpi': ('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'),
}
# Heads with classes of their own, not the data's.
OTHER_CLASSES = (*CLASS_AGNOSTIC, 'semantic_head')
# Numbers that an optimizer keeps for each that it trains.
OPTIMIZER_STATES = {'SGD': 1, 'Adam': 2, 'AdamW': 2}
GIB = 2**30


def find_faults(
    cfg: Config,
    splits: Iterable[str] = SPLITS,
    thorough: bool = True,
    processes: int | None = None,
) -> list[Finding]:
    """Everything that is wrong, or likely to be, with a training of ``cfg`` on this machine.

    Args:
        cfg: As the tools load it, with ``work_dir`` and ``launcher``; it is left as it is.
        splits: The dataloaders whose data are checked.
        thorough: Open all images and label maps, with a progress bar, and load the weights to start
            from; otherwise a sample of the images.
        processes: That will train; None asks the launcher.

    Returns:
        The errors before the warnings.
    """
    with _undisturbed(), DefaultScope.overwrite_default_scope(cfg.default_scope):
        sources, findings = build_sources(cfg, splits)
        findings += check_imports(cfg)
        findings += check_batch_size(cfg, processes or count_processes(cfg.get('launcher'))[0])
        try:
            model = _build_model(cfg)
        except (FileNotFoundError, ValueError) as error:
            findings.append(Finding(ERROR, str(error), 'model', 'correct this entry'))
        else:
            findings += check_classes(model, sources)
            findings += check_weights(cfg, model, thorough)
            findings += check_optimizer(cfg, model)
            findings += check_disk(cfg, model)
        ignored = {head.get('ignore_index', UNLABELLED) for head in _segmentation_heads(cfg)}
        findings += check_data(cfg, sources, frozenset(ignored or {UNLABELLED}), thorough)
    return errors_first(findings)


def refuse_faults(cfg: Config) -> list[Finding]:
    """The quick check before a training.

    Returns:
        What should be known, for the log.

    Raises:
        ValueError: The training would fail, or learn what is wrong. Only the message of the first
            process tells of what.
    """
    findings = find_faults(cfg, ('train', 'val'), thorough=False)
    errors = [finding for finding in findings if finding.level == ERROR]
    if errors:
        _, rank = count_processes(cfg.get('launcher'))
        details = '\n'.join(map(str, errors)) if rank == 0 else 'see the first process'
        raise ValueError(
            f'the check before the training found {len(errors)} errors (tools/check.py finds more, '
            f'--no-check trains nevertheless):\n{details}'
        )
    return findings


def count_processes(launcher: str | None) -> tuple[int, int]:
    """The number of processes of a run, and the rank of this one, before they know one another."""
    if launcher not in LAUNCHER_VARIABLES:
        return 1, 0
    size, rank = LAUNCHER_VARIABLES[launcher]
    return int(os.environ.get(size, 1)), int(os.environ.get(rank, 0))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without the logs and warnings of what is built to be looked at; training repeats them."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)


def _build_model(cfg: Config) -> nn.Module:
    """The model without its numbers, or with them if it needs them to be built."""
    try:
        return build_on_meta(cfg)
    except Exception:  # what a model makes of weights without numbers is open-ended
        with config_errors():
            return MODELS.build(deepcopy(cfg.model))


def entries(node: object, place: str = '') -> Iterator[tuple[str, Mapping]]:
    """The dicts in a part of a config, and the keys that lead to them, joined by dots."""
    if isinstance(node, Mapping):
        yield place, node
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for key, child in children:
        yield from entries(child, f'{place}.{key}'.lstrip('.'))


# --- the model and the data -------------------------------------------------------------------


def check_classes(model: nn.Module, sources: Iterable[Source]) -> Iterator[Finding]:
    """Compare the classes of datasets with one another, and their number with that of heads."""
    heads = dict(_classifying_heads(model))
    first_of: dict[int, Source] = {}
    for source in sources:
        place = f'{source.place}.metainfo'
        if not source.classes:
            got = source.dataset.metainfo.get('classes')
            yield Finding(
                ERROR,
                f'expected a list of names as classes, got {got!r}',
                place,
                "write metainfo=dict(classes=('a', ...)); with one class, the comma is needed too",
            )
            continue
        number = len(source.classes)
        first = first_of.setdefault(number, source)
        wrong = [f'{name}: {size}' for name, size in heads.items() if size != number]
        if wrong and source is first:
            kind = Kind(
                ERROR,
                f'heads for another number of classes than the {number} of {place}, '
                f'{spell(source.classes)}',
                f'set num_classes={number} in the heads, or all classes in the metainfo',
            )
            yield several(kind, 'model', wrong)
        if source.classes != first.classes:
            yield Finding(
                ERROR,
                f'classes {spell(source.classes)} other than those of {first.place}, '
                f'{spell(first.classes)}',
                place,
                'give all datasets the same classes in the same order',
            )


def _classifying_heads(model: nn.Module) -> Iterator[tuple[str, int]]:
    """The heads of a model that tell the classes of the data apart, and for how many they are."""
    for name, module in model.named_modules():
        own = re.sub(r'(\.\d+)+$', '', name).rpartition('.')[2]  # heads of a cascade have numbers
        number = getattr(module, 'num_classes', None)
        counts = own.endswith('head') and own not in OTHER_CLASSES
        if counts and isinstance(number, int) and not getattr(module, 'class_agnostic', False):
            yield name, number


def _segmentation_heads(cfg: Config) -> Iterator[Mapping]:
    for key in ('decode_head', 'auxiliary_head'):
        heads = cfg.model.get(key) or ()
        yield from [heads] if isinstance(heads, Mapping) else heads


def check_data(
    cfg: Config, sources: Iterable[Source], ignored: frozenset[int], thorough: bool
) -> Iterator[Finding]:
    """Check the files of datasets.

    Args:
        cfg: The config that they are of.
        sources: The datasets.
        ignored: Labels that the losses of a segmentor leave out.
        thorough: As in :func:`find_faults`.
    """
    images: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        backend = (getattr(source.dataset, 'backend_args', None) or {}).get('backend', 'local')
        if backend == 'local' and _reads_coco(source):
            images[source.split] |= yield from check_coco(source, thorough)
        elif backend == 'local' and _reads_label_maps(source):
            images[source.split] |= yield from check_label_maps(source, ignored, thorough)
        else:
            yield Finding(
                WARNING,
                f'{type(source.dataset).__name__} with the backend {backend!r}: its files are not '
                'checked',
                source.place,
                'look at samples with tools/browse_data.py',
            )
        yield from _check_evaluator(cfg, source)
    for split, paths in images.items():
        shared = sorted(paths & images.get('train', set())) if split != 'train' else ()
        if shared:
            kind = Kind(
                WARNING,
                f'images of the {split} data that are train data too',
                'evaluate on images that no training sees',
            )
            yield several(kind, f'{split}_dataloader', shared)


def _reads_coco(source: Source) -> bool:
    """Whether a dataset reads its file as mmdet's CocoDataset does."""
    try:
        from mmdet.datasets import CocoDataset
    except ImportError:
        return False
    own = type(source.dataset)
    return (
        issubclass(own, CocoDataset)
        and own.load_data_list is CocoDataset.load_data_list
        and own.COCOAPI is CocoDataset.COCOAPI
    )


def _reads_label_maps(source: Source) -> bool:
    """Whether a dataset lists its files as mmseg's BaseSegDataset does."""
    try:
        from mmseg.datasets import BaseSegDataset
    except ImportError:
        return False
    own = type(source.dataset)
    return issubclass(own, BaseSegDataset) and own.load_data_list is BaseSegDataset.load_data_list


def _check_evaluator(cfg: Config, source: Source) -> Iterator[Finding]:
    """Metrics read annotations on their own, which have to be those of the data."""
    evaluators = cfg.get(f'{source.split}_evaluator') or ()
    for evaluator in [evaluators] if isinstance(evaluators, Mapping) else evaluators:
        file, own = evaluator.get('ann_file'), source.dataset.ann_file
        if file and os.path.abspath(file) != os.path.abspath(own):
            yield Finding(
                WARNING,
                f'metrics that read {file!r}, for data from {own!r}',
                f'{source.split}_evaluator',
                'set its ann_file to that of the dataset, with the data_root',
            )


# --- the training -----------------------------------------------------------------------------


def check_imports(cfg: Config) -> Iterator[Finding]:
    """What the tools of this package find without ``custom_imports``, and others do not."""
    imports = (cfg.get('custom_imports') or {}).get('imports') or ()
    names = [imports] if isinstance(imports, str) else imports
    if any(name.partition('.')[0] == PACKAGE for name in names):
        return
    ours = {
        name
        for registered in vars(registry).values()
        if isinstance(registered, Registry)
        for name, kind in registered.module_dict.items()
        # Not what stands in for a type of another package under its name.
        if kind.__module__.partition('.')[0] == PACKAGE and getattr(kind, '__name__', '') == name
    }
    places = [
        f'{place}.{key}={entry[key]!r}'
        for place, entry in entries(cfg.to_dict())
        for key in ('type', 'constructor')
        if isinstance(entry.get(key), str) and entry[key] in ours
    ]
    if places:
        kind = Kind(
            WARNING,
            f'types of {PACKAGE} without its import, unknown to the tools of mmdet and mmseg',
            f"add custom_imports = dict(imports=['{PACKAGE}'], allow_failed_imports=False); "
            "mmpretrain's ConvNeXt would be 'mmpretrain.ConvNeXt'",
        )
        yield several(kind, 'custom_imports', places)


def check_batch_size(cfg: Config, processes: int) -> Iterator[Finding]:
    """Compare the images per step of the optimizer with those that the learning rate is for."""
    scaling = cfg.get('auto_scale_lr') or {}
    base = scaling.get('base_batch_size')
    images = (cfg.get('train_dataloader') or {}).get('batch_size')
    rate = ((cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('lr')
    if not base or not images or not rate or scaling.get('enable'):
        return
    batches = cfg.optim_wrapper.get('accumulative_counts', 1)
    total = processes * images * batches
    if total != base:
        yield Finding(
            WARNING,
            f'{total} images per step of the optimizer ({processes} processes x {images} images x '
            f'{batches} batches), at a learning rate of {rate:g} for {base}',
            'auto_scale_lr',
            f'train with --auto-scale-lr, which makes it {rate * total / base:.3g}, or with {base}',
        )


def check_optimizer(cfg: Config, model: nn.Module) -> Iterator[Finding]:
    """Build the groups of parameters by the rules of the config."""
    if not cfg.get('optim_wrapper'):
        return
    settings = deepcopy(cfg.optim_wrapper)
    if settings.get('type') == 'AmpOptimWrapper':
        switch_amp_off(settings)  # it asks for a GPU
    try:
        with config_errors():
            build_optim_wrapper(model, settings)
    except (FileNotFoundError, ValueError) as error:
        yield Finding(ERROR, str(error), 'optim_wrapper', 'correct this entry')
        return
    names = [name for name, _ in model.named_parameters()]
    for key in (settings.get('paramwise_cfg') or {}).get('custom_keys') or ():
        if not any(key in name for name in names):
            yield Finding(
                WARNING,
                f'the rule for {key!r} is for no parameter: no name contains it',
                'optim_wrapper.paramwise_cfg.custom_keys',
                f'correct the key; names are such as {spell(names)}',
            )


def check_disk(cfg: Config, model: nn.Module) -> Iterator[Finding]:
    """Whether the checkpoints of a training can be written, and have room."""
    folder = Path(cfg.work_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Finding(
            ERROR,
            f'a work dir that cannot be written: {error}',
            cfg.work_dir,
            'choose another with --work-dir',
        )
        return
    if not cfg.get('train_cfg') or not cfg.get('optim_wrapper'):
        return
    size, number = checkpoint_size(cfg, model), count_checkpoints(cfg)
    if free < size * number:
        yield Finding(
            ERROR if free < size else WARNING,
            f'{free / GIB:.1f} GiB are free, for checkpoints of {size / GIB:.1f} GiB of which '
            f'{number} will be kept',
            cfg.work_dir,
            'choose another --work-dir, or keep fewer with '
            '--cfg-options default_hooks.checkpoint.max_keep_ckpts=2',
        )


def checkpoint_size(cfg: Config, model: nn.Module) -> int:
    """Bytes of a checkpoint: weights, averaged weights, and the states of the optimizer."""
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = sum(param.nbytes for param in model.parameters() if param.requires_grad)
    averaged = any(hook['type'] == 'EMAHook' for hook in cfg.get('custom_hooks') or ())
    states = OPTIMIZER_STATES.get(cfg.optim_wrapper.get('optimizer', {}).get('type'), 2)
    return weights * (1 + averaged) + trained * states


def count_checkpoints(cfg: Config) -> int:
    """The checkpoints that a training keeps."""
    hook = cfg.get('default_hooks', {}).get('checkpoint') or {}
    length = cfg.train_cfg.get('max_epochs' if hook.get('by_epoch', True) else 'max_iters', 1)
    interval, kept = hook.get('interval', -1), hook.get('max_keep_ckpts', -1)
    number = math.ceil(length / interval) if interval > 0 else 1  # the last is always written
    best = hook.get('save_best') or ()
    return (min(number, kept) if kept > 0 else number) + len(
        [best] if isinstance(best, str) else best
    )


# --- weights to start from --------------------------------------------------------------------


def check_weights(cfg: Config, model: nn.Module, thorough: bool) -> Iterator[Finding]:
    """Compare weights to start from with the model, where they are on this machine.

    Those that training downloads are compared when it has; it stops if they do not fit.
    """
    if cfg.get('load_from'):
        yield from _check_plain(model, cfg.load_from, 'load_from')
    modules = dict(model.named_modules())
    for place, part in entries(cfg.model, 'model'):
        inits = part.get('init_cfg') or ()
        for init in [inits] if isinstance(inits, Mapping) else inits:
            module = modules.get(place.removeprefix('model').lstrip('.'))
            if not init.get('checkpoint') or module is None:
                continue
            where = f'{place}.init_cfg'
            if init['type'] in (PretrainedConvNeXt, PretrainedConvNeXt.__name__):
                yield from _check_recognised(part, init, where, thorough)
            else:
                yield from _check_plain(module, init['checkpoint'], where, init.get('prefix'))


def _check_recognised(
    part: Mapping, init: Mapping, where: str, thorough: bool
) -> Iterator[Finding]:
    """Weights that :func:`load_weights` reads, into the backbone that ``part`` builds."""
    options = {key: init[key] for key in ('strict', 'ema', 'prefix') if key in init}
    try:
        file = local_file(init['checkpoint'])
        if file and thorough:
            report = load_weights(MODELS.build(deepcopy(part)), file, **options)
            if report.surprises:
                what = f'{file}: {"; ".join(report.surprises)}'
                yield Finding(WARNING, what, where, 'leave out strict=False to make it an error')
    except (FileNotFoundError, TypeError, ValueError) as error:
        yield Finding(ERROR, str(error), where, 'name weights of this backbone')


def _check_plain(
    module: nn.Module, source: str, where: str, prefix: str | None = None
) -> Iterator[Finding]:
    """Weights that mmengine reads: it takes what has the same name and shape, and goes on."""
    try:
        file = local_file(source)
        checkpoint = read_checkpoint(file, mmap=True) if file else None
    except (FileNotFoundError, ValueError) as error:
        yield Finding(ERROR, str(error), where, 'name other weights')
        return
    if file is None:
        return
    tensors = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, Mapping) else {}
    start = f'{prefix.rstrip(".")}.' if prefix else ''
    shapes = {
        re.sub(r'^module\.', '', name.removeprefix(start)): tensor.shape
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor) and name.startswith(start)
    }
    places = module.state_dict()
    unfilled = [name for name, place in places.items() if shapes.get(name) != place.shape]
    if len(unfilled) == len(places):
        yield Finding(
            ERROR,
            f'nothing of {source!r} fits by name and shape: training would start from scratch',
            where,
            f'a ConvNeXt gets weights of any layout with {PretrainedConvNeXt.__name__} as the type '
            'of its init_cfg',
        )
    elif unfilled:
        kind = Kind(
            WARNING,
            f'tensors that {source!r} does not fill',
            'name the weights of this model, unless these are to be new, such as other heads',
        )
        yield several(kind, where, unfilled)


def local_file(source: str) -> Path | None:
    """The file of weights on this machine; None if training would download it.

    Args:
        source: A name of :data:`~convnext_backbones.PUBLISHED`, the path of a file, or a URL.

    Raises:
        FileNotFoundError: Training would not find it either.
        ValueError: The URL is of no use.
    """
    published = PUBLISHED.get(source)
    if published is not None:
        found = find_downloaded(published.url, official=True)
    elif not is_url(source):
        return weights_file(source)
    elif source.lower().startswith(SCHEMES):
        found = find_downloaded(source)
    else:
        return None  # such as torchvision://resnet50, which mmengine looks up
    return found if found or may_download() else weights_file(source)
