"""Write a plan as the text of a config: at most thirty lines that a user can read and change."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..data.found import Found, Split
from ..data.tree import plural
from .plan import Plan

WIDTH = 100
# The bases of data of one's own, below the folder of the configs.
BASES = '_base_/own'
# More lines of names make a config hard to read.
MOST_NAME_LINES = 3


def base_of(plan: Plan) -> str:
    """Return the file name of the base that a plan needs."""
    if plan.found.task == 'segmentation':
        return 'label_maps.py' if plan.weights else 'label_maps_scratch.py'
    return 'instances.py' if plan.head.needs_masks else 'boxes.py'


def config_text(plan: Plan, command: str, configs: Path, out: Path, classes_file: str = '') -> str:
    """Return the config of a plan.

    Args:
        plan: What it says.
        command: The command that writes it.
        configs: The folder of the configs of this package.
        out: The file that is to be written; bases are named from its folder.
        classes_file: The file that holds the names of the classes; by default the config does.
    """
    base = os.path.relpath(configs / BASES / base_of(plan), out.parent)
    task_lines = _label_map_lines if plan.found.task == 'segmentation' else _detection_lines
    lines = [
        *textwrap.wrap(f'# Written by {command}', WIDTH, subsequent_indent='#     '),
        *textwrap.wrap(f'# {summary(plan.found)}', WIDTH, subsequent_indent='# '),
        f'_base_ = [{base!r}]',
        'from convnext_backbones.config import head_settings',
        *_settings(plan, classes_file),
        '',
        *_model_lines(plan),
        *task_lines(plan),
        f'train_cfg = dict(max_epochs=epochs, val_interval={plan.val_interval})',
        f'param_scheduler = [dict(_base_.warm_up, end={plan.warm_up}), '
        'dict(_base_.decay, end=epochs)]',
        'auto_scale_lr = dict(base_batch_size=batch_size)',
    ]
    # mmengine replaces names in double braces, even inside of strings and comments.
    return '\n'.join(lines).replace('{{', '{\\x7b') + '\n'


def summary(found: Found) -> str:
    """Return what the data are, in a sentence."""
    uses = dict(train='to train on', val='to validate on', test='to test on')
    parts = [
        f'{plural(split.number, "image")} {uses[name]}' for name, split in found.splits.items()
    ]
    number = len(found.classes)
    return f'{found.layout}: {", ".join(parts)}, {number} class{"es" * (number != 1)}'


def class_lines(classes: Iterable[str]) -> list[str]:
    """Return the names of the classes as lines of Python."""
    return _wrapped('classes = ', map(repr, classes))


def needs_classes_file(plan: Plan) -> bool:
    """Whether the names of the classes take more lines than a config should have.

    A name with a line break cannot stand in a file with a name per line.
    """
    names = plan.found.classes
    is_listable = '\n'.join(names).splitlines() == [*names]
    return is_listable and len(class_lines(names)) > MOST_NAME_LINES


def _settings(plan: Plan, classes_file: str) -> Iterator[str]:
    """Yield what a user changes first, with the reasons."""
    found, sizes = plan.found, plan.sizes
    if found.task == 'detection':
        yield f'data_root = {data_root(found)!r}'
    if classes_file:
        yield f'classes = {classes_file!r}'
    else:
        yield from class_lines(found.classes)
    if found.task == 'segmentation':
        yield f'reduce_zero_label = {found.reduce_zero_label}'
        if found.ignore_labels:
            yield f'ignore_labels = {list(found.ignore_labels)}'
    if plan.channels is not None:
        mean, std = plan.channels
        yield f'image_channels = dict(mean={mean}, std={std})'
    yield f'scale = {sizes.scale}  # {sizes.scale_reason}'
    yield f'crop_size = {sizes.crop}  # {sizes.crop_reason}'
    yield f'batch_size = {plan.batch}  # {plan.batch_reason}'
    yield f'epochs = {plan.epochs}  # {plan.epochs_reason}'
    yield f'lr = {plan.lr:.1e}  # {plan.lr_reason}'


def _model_lines(plan: Plan) -> Iterator[str]:
    arch = '' if plan.arch is None else f' arch={plan.arch!r},'
    call = f'{plan.name!r},{arch} weights={plan.weights!r}, lr=lr'
    yield f'model, optim_wrapper = head_settings({call})'


def _detection_lines(plan: Plan) -> Iterator[str]:
    found = plan.found
    yield 'train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline'
    yield 'train_pipeline[2].scale = test_pipeline[1].scale = scale'
    yield 'train_pipeline[3].crop_size = crop_size'
    for names, split in _uses(found):
        file, folder = _below(found, split.annotations), _below(found, split.images)
        yield _loader_start(names)
        yield f'    data_root=data_root, ann_file={file!r}, data_prefix=dict(img={folder!r})))'
        if 'train' not in names:
            yield f'{_assigned(names, "evaluator")} = dict(ann_file=data_root + {file!r})'


def _label_map_lines(plan: Plan) -> Iterator[str]:
    found = plan.found
    yield "model['data_preprocessor']['size'], model['test_cfg'] = crop_size, dict(mode='whole')"
    yield 'train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline'
    yield 'tta_pipeline = _base_.tta_pipeline'
    yield 'train_pipeline[2].scale = test_pipeline[1].scale = tta_pipeline[1].scale = scale'
    yield 'train_pipeline[3].crop_size = crop_size'
    suffixes = f'img_suffix={found.image_suffix!r}, seg_map_suffix={found.label_suffix!r}'
    yield f'files = dict(data_root={data_root(found)!r}, {suffixes})'
    colors = f'dict(palette={[list(color) for color in found.palette]})'
    if found.palette and len(colors) < WIDTH:
        yield f"files['metainfo'] = {colors}"
    for names, split in _uses(found):
        yield _loader_start(names)
        yield f'    {_prefix(found, split)}, **files))'


def _uses(found: Found) -> Iterator[tuple[list[str], Split]]:
    """Yield the parts of the data with the names of the dataloaders that read them."""
    test = 'test' if 'test' in found.splits else 'val'
    for name, split in found.splits.items():
        yield [name, *(['test'] if name == test != 'test' else [])], split


def _loader_start(names: list[str]) -> str:
    batch = 'batch_size=batch_size, ' if 'train' in names else ''
    pipeline = 'train' if 'train' in names else 'test'
    return (
        f'{_assigned(names, "dataloader")} = dict({batch}dataset=dict(pipeline={pipeline}_pipeline,'
    )


def _assigned(names: list[str], what: str) -> str:
    return ' = '.join(f'{name}_{what}' for name in names)


def _prefix(found: Found, split: Split) -> str:
    images, maps = _below(found, split.images), _below(found, split.annotations)
    listed = ''
    if split.list_file is not None:
        listed = f'ann_file={_below(found, split.list_file)!r}, '
    return f'{listed}data_prefix=dict(img_path={images!r}, seg_map_path={maps!r})'


# --- paths ----------------------------------------------------------------------------------


def data_root(found: Found) -> str:
    """Return the folder that holds all files of the data, with a slash at its end."""
    paths = [os.fspath(found.root)]
    for split in found.splits.values():
        files = (split.images, split.annotations, split.list_file)
        paths += [os.fspath(path) for path in files if path]
    absolute = os.path.commonpath([os.path.abspath(path) for path in paths])
    is_relative = not any(map(os.path.isabs, paths))
    return (os.path.relpath(absolute) if is_relative else absolute) + '/'


def _below(found: Found, path: Path) -> str:
    """Return a path as the config names it, below the root of the data."""
    below = os.path.relpath(path, data_root(found))
    return '' if below == '.' else below


def _wrapped(start: str, entries: Iterable[str]) -> list[str]:
    """Return a tuple of entries as lines of Python, which break between entries only."""
    listed = [*entries]
    ends = [','] * (len(listed) - 1) + [',)' if len(listed) == 1 else ')']
    lines = [f'{start}({listed[0]}{ends[0]}']
    for entry, end in zip(listed[1:], ends[1:], strict=True):
        if len(f'{lines[-1]} {entry}{end}') > WIDTH:
            lines.append(' ' * (len(start) + 1) + entry + end)
        else:
            lines[-1] += f' {entry}{end}'
    return lines


def known_splits(splits: Mapping[str, Split]) -> bool:
    """Whether there is something to train on and something to validate on."""
    return {'train', 'val'} <= splits.keys()
