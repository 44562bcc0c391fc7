"""Plain configs for prediction: JSON or YAML that is read without executing anything.

A config of OpenMMLab is Python. mmengine executes even JSON and YAML configs: it imports the
modules in ``custom_imports``, runs ``_base_`` files in Python, and creates any object that a YAML
tag names. The plain form in this module holds only what prediction needs.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from mmengine import registry
from mmengine.config import Config
from mmengine.registry import DATASETS, Registry, init_default_scope
from mmengine.utils import is_list_of

from .walk import pipelines, walk

SUFFIXES = ('.json', '.yaml', '.yml')
# By default_scope: a dataset class for the classes without files, and the visualizer.
PARTS = {
    'mmdet': ('BaseDetDataset', 'DetLocalVisualizer'),
    'mmseg': ('BaseSegDataset', 'SegLocalVisualizer'),
}
OWN_IMPORTS = ('convnext_backbones', ['convnext_backbones'])
# Entries that name initial weights. For prediction the checkpoint has the weights.
STARTS = ('init_cfg', 'pretrained')
# mmengine imports any other dotted name, and any unregistered name, as a module.
TYPE = re.compile(r'(?:(?:mmdet|mmseg|mmcv|mmengine)\.)?(\w+)')
# mmcv and mmdet evaluate some strings as Python and take others for file names. Neither can be
# written with these characters.
WORDS = re.compile(r'[\w +-]*')


def is_plain(path: str | os.PathLike) -> bool:
    """Whether a config file is plain data, by its suffix."""
    return Path(path).suffix.lower() in SUFFIXES


def read_plain_config(path: str | os.PathLike) -> Config:
    """Read a config for prediction from JSON or YAML, without executing anything.

    The result has ``default_scope``, ``model`` without initial weights, ``visualizer``, and in
    ``test_dataloader.dataset`` the pipeline and the names and colors of the classes. Other entries
    are dropped. Pairs of numbers in the pipeline become tuples: transforms take only these for
    sizes.

    Raises:
        ValueError: The file is not JSON or YAML, lacks one of these entries, or holds anything in
            them but numbers, words and registered classes of the OpenMMLab stack.
    """
    source = os.fspath(path)
    try:
        text = Path(path).read_text(encoding='utf-8')
        contents = json.loads(text) if source.lower().endswith('.json') else yaml.safe_load(text)
        return Config(_checked_config(contents))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(_not_plain(source, error)) from error


def plain_config(cfg: Config) -> dict:
    """Return the plain form of any config, to be written as JSON for :func:`read_plain_config`.

    Raises:
        ValueError: An entry has no plain form, such as a class in place of its name.
    """
    init_default_scope(cfg.default_scope)
    metainfo = DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True)).metainfo
    contents = cfg.to_dict()
    contents.pop('custom_imports', None)  # types that they register are checked by name below
    contents['test_dataloader'] = dict(
        dataset=dict(
            metainfo=dict(
                classes=[*(metainfo.get('classes') or ())],
                palette=[[*color] for color in metainfo.get('palette') or ()],
            ),
            pipeline=next(pipelines(contents['test_dataloader']['dataset']), None),
        )
    )
    try:
        return _checked_config(contents)
    except ValueError as error:
        raise ValueError(_not_plain(str(cfg.filename), error)) from error


def _not_plain(source: str, error: Exception) -> str:
    return (
        f'cannot use {source!r} as a config of plain data: {" ".join(str(error).split())}; '
        'tools/publish.py CHECKPOINT --config CONFIG writes one'
    )


def _checked_config(contents: Any) -> dict[str, Any]:
    """Return the entries that prediction needs, after checking every value in them."""
    _expect(isinstance(contents, dict), 'named entries', contents)
    _expect('_base_' not in contents, 'no _base_, which may be Python', contents.get('_base_'))
    imports = contents.get('custom_imports') or dict(imports=OWN_IMPORTS[0])
    own = isinstance(imports, dict) and imports.get('imports') in OWN_IMPORTS
    _expect(own, f'custom_imports of {OWN_IMPORTS[0]} only', imports)
    scope = contents.get('default_scope')
    _expect(scope in list(PARTS), f'default_scope {" or ".join(PARTS)}', scope)
    dataset_type, visualizer_type = PARTS[scope]
    names = registered_names(scope)
    model = _checked(_section(contents, 'model'), 'model', names)
    dataset = _section(_section(contents, 'test_dataloader'), 'dataset')
    pipeline = dataset.get('pipeline')
    _expect(is_list_of(pipeline, dict), 'transforms in test_dataloader.dataset.pipeline', pipeline)
    default = dict(type=visualizer_type, name='visualizer')
    visualizer = {
        key: value
        for key, value in _section(contents, 'visualizer', default).items()
        if key not in ('save_dir', 'vis_backends')
    }
    return dict(
        default_scope=scope,
        model=model,
        test_dataloader=dict(
            dataset=dict(
                type=dataset_type,
                metainfo=_checked_metainfo(_section(dataset, 'metainfo', {})),
                pipeline=_with_sizes(_checked(pipeline, 'pipeline', names)),
            )
        ),
        visualizer=_checked(visualizer, 'visualizer', names),
    )


def _expect(met: bool, expected: str, got: Any) -> None:
    if not met:
        raise ValueError(f'expected {expected}, got {got!r:.200}')


def _section(
    contents: dict[str, Any], name: str, default: dict[str, Any] | None = None
) -> dict[str, Any]:
    section: Any = contents.get(name, default)
    _expect(isinstance(section, dict), f'named entries in {name}', section)
    return section


def _checked_metainfo(metainfo: dict[str, Any]) -> dict[str, Any]:
    """Return names and colors of the classes; a string, which would name a file, is refused."""
    kept = {key: metainfo[key] for key in ('classes', 'palette') if metainfo.get(key)}
    classes, palette = kept.get('classes', []), kept.get('palette', [])
    _expect(is_list_of(classes, str), 'a list of names in metainfo.classes', classes)
    colors = is_list_of(palette, list) and all(is_list_of(color, int) for color in palette)
    _expect(colors, 'a list of lists of numbers in metainfo.palette', palette)
    return kept


@cache
def registered_names(scope: str) -> frozenset[str]:
    """Return every name that a ``type`` may have: all that mmengine, ``scope`` and mmcv define."""
    import_module(f'{scope}.utils').register_all_modules(init_default_scope=False)
    import_module(f'{scope}.visualization')  # mmseg does not register it above
    roots = [root for root in vars(registry).values() if isinstance(root, Registry)]
    registries = [each for root in roots for each in (root, *root.children.values())]
    # Heads look up non-maximum suppression and RoI layers in mmcv.ops.
    operations = import_module('mmcv.ops').__all__
    return frozenset(operations).union(*(each.module_dict for each in registries))


def _checked(node: Any, place: str, names: Collection[str]) -> Any:
    """Return a copy of ``node`` without initial weights.

    Raises:
        ValueError: A value in it is not plain.
    """
    if isinstance(node, dict):
        for key in node:
            named = isinstance(key, str) and not key.startswith('_')
            _expect(named, f'plain names of the entries in {place}', key)
        return {
            key: _checked(value, f'{place}.{key}', names)
            for key, value in node.items()
            if key not in STARTS
        }
    if isinstance(node, (list, tuple)):
        return [_checked(child, f'{place}[{i}]', names) for i, child in enumerate(node)]
    if place.endswith('.type'):
        name = TYPE.fullmatch(node) if isinstance(node, str) else None
        _expect(name is not None and name[1] in names, f'a registered name in {place}', node)
    elif isinstance(node, str):
        _expect(WORDS.fullmatch(node) is not None, f'plain words in {place}', node)
    else:
        plain = node is None or isinstance(node, (bool, int, float))
        _expect(plain, f'plain data in {place}', node)
    return node


def _with_sizes(node: Any) -> Any:
    """Return a copy of ``node`` in which pairs of numbers are tuples."""
    if isinstance(node, dict):
        return {key: _with_sizes(value) for key, value in node.items()}
    if is_list_of(node, (int, float)) and len(node) == 2:
        return tuple(node)
    return [_with_sizes(child) for child in node] if isinstance(node, list) else node


def check_data_formats(cfg: Config) -> None:
    """Refuse the two ways to unpickle data that do not go through mmengine's file handlers.

    Raises:
        ValueError: The config uses one.
    """
    for _, node in walk(cfg.to_dict()):
        if node.get('decode_backend') == 'pickle':
            raise ValueError(
                "expected another decode_backend than 'pickle', with which an image file can "
                "execute code; store the images as .npy and set decode_backend='numpy'"
            )
        if 'OpenImagesChallengeDataset' in str(node.get('type')):
            raise ValueError(
                'expected another dataset than OpenImagesChallengeDataset, whose class hierarchy '
                'mmdet may unpickle; use OpenImagesDataset'
            )
