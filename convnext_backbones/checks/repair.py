"""Write repaired copies of the annotation files and label maps that a config names.

The originals are not touched, and images are not copied.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from ..config.walk import unwrap
from ..io.files import TEMPORARY, write_atomically
from ..io.silence import silenced
from ..io.wording import first_names
from .coco_evaluation import list_evaluators
from .data import reads_coco, reads_label_maps
from .preflight import SPLITS
from .repair_changes import Log, as_lines
from .repair_coco import repair_coco
from .repair_label_maps import examine_maps, plan_maps
from .sources import Source, build_sources

LIST = 'changes.json'  # the file with every change
# What mmengine takes for lists and texts in a value of --cfg-options; it leaves out spaces, too.
SPECIAL = ',[]()\'"'


@dataclass
class Repair:
    """What a repair did.

    Attributes:
        config: The config, with the repaired files in place of the originals.
        folder: The folder of the repaired files; None if there was nothing to repair.
        options: The entries of the config that name repaired files, for ``--cfg-options``.
        logs: The changes of each file, and what is left.
    """

    config: Config
    folder: Path | None = None
    options: dict[str, str] = field(default_factory=dict)
    logs: list[Log] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        """Return everything for JSON; NaN and infinite numbers become text."""
        changes = [change._asdict() for log in self.logs for change in log.changes]
        return dict(
            folder=str(self.folder) if self.folder else None,
            cfg_options=self.options,
            changes=[_plain(change) for change in changes],
            left=[left._asdict() for log in self.logs for left in log.left],
        )

    def as_lines(self) -> list[str]:
        """Return a line per kind of change and per kind of what is left."""
        lines = [line for log in self.logs for line in as_lines(log.changes, 'fixed')]
        return lines + [line for log in self.logs for line in as_lines(log.left, 'left')]


def repair_data(cfg: Config, out: Path, thorough: bool = True) -> Repair:
    """Write repaired copies of the annotation files and label maps of a config.

    Args:
        cfg: A config as the tools load it; not changed.
        out: A folder that does not exist or is empty; written as a whole, and only if there is
            something to repair.
        thorough: Read the sizes of all images, not only those that are missing or impossible.

    Returns:
        The changes, and the config with the repaired files.

    Raises:
        ValueError: ``out`` has files in it, is where images are, or its name cannot be given to
            ``--cfg-options``.
        OSError: The files cannot be written.
    """
    out = Path(os.path.abspath(out))
    _check_folder(out)
    # What is built here is built again for the work itself, and then says what it has to say.
    with silenced(logging.CRITICAL), DefaultScope.overwrite_default_scope(cfg.default_scope):
        sources, _ = build_sources(cfg, SPLITS)
        for source in sources:
            _check_place(out, source)
        repair = Repair(cfg)
        with _written_as_a_whole(out) as folder:
            targets = _repair_files(cfg, sources, folder, thorough, repair)
            if targets:
                repair.folder = out
                repair.options = dict(_options(cfg, sources, targets, out))
                text = json.dumps(repair.as_data(), indent=1)
                write_atomically(folder / LIST, text)
    if repair.options:
        repair.config = deepcopy(cfg)
        repair.config.merge_from_dict(repair.options)
    return repair


def _repair_files(
    cfg: Config, sources: list[Source], folder: Path, thorough: bool, repair: Repair
) -> dict[str, str]:
    """Write what is to be repaired; return the new names, relative to the folder, by old path."""
    coco = _coco_files(cfg, sources)
    maps = defaultdict(list)  # one folder may have the maps of all splits
    for source in filter(reads_label_maps, sources):
        if source.dataset.data_prefix.get('seg_map_path'):
            maps[os.path.abspath(source.dataset.data_prefix['seg_map_path'])].append(source)
    roots = [source.dataset.data_root or '.' for source in sources]
    base = _common_folder([*map(os.path.abspath, roots), *map(os.path.dirname, coco), *maps])
    targets = {}
    for path, (source, masks) in coco.items():
        log = Log(path)
        text = repair_coco(path, source, masks, thorough, log)
        repair.logs.append(log)
        if text is not None:
            targets[path] = os.path.relpath(path, base)
            file = folder / targets[path]
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, text)
    logs = {path: Log(path) for path in maps}
    facts = {path: examine_maps(readers, logs[path]) for path, readers in maps.items()}
    values = {value for ours in facts.values() for fact in ours.values() for value in fact.gray}
    for path, readers in maps.items():
        plan = plan_maps(readers[0], facts[path], values, logs[path])
        repair.logs.append(logs[path])
        if plan:
            targets[path] = os.path.relpath(path, base)
            plan.write(folder / targets[path])
    return targets


def _coco_files(cfg: Config, sources: list[Source]) -> dict[str, tuple[Source, bool]]:
    """Return the files in COCO format: a dataset that has the images, and whether masks are read.

    Metrics may read other files than the dataset of their split.
    """
    files: dict[str, tuple[Source, bool]] = {}

    def add(path: str, source: Source, masks: bool) -> None:
        known, needs = files.get(os.path.abspath(path), (source, False))
        files[os.path.abspath(path)] = known, needs or masks

    for source in filter(reads_coco, sources):
        add(
            source.dataset.ann_file,
            source,
            any(transform.get('with_mask') for transform in source.transforms),
        )
    for split in ('val', 'test'):
        of_split = [one for one in sources if one.split == split and reads_coco(one)]
        others = [one for one in sources if one.split != 'train' and reads_coco(one)]
        for evaluator in list_evaluators(cfg, split):
            known = os.path.abspath(evaluator.path) in files
            for source in (of_split or others)[:1]:
                if known or os.path.isfile(evaluator.path):
                    add(evaluator.path, source, evaluator.masks)
    return files


def _options(
    cfg: Config, sources: list[Source], targets: Mapping[str, str], out: Path
) -> Iterator[tuple[str, str]]:
    """Yield the entries of a config that name repaired files, and the repaired ones."""
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader') or {}
        for entry, config in unwrap(loader.get('dataset'), f'{split}_dataloader.dataset'):
            dataset = next((one.dataset for one in sources if one.config == config), None)
            prefixes = getattr(dataset, 'data_prefix', None) or {}
            for key, path in (
                ('ann_file', getattr(dataset, 'ann_file', '')),
                ('data_prefix.seg_map_path', prefixes.get('seg_map_path')),
            ):
                if path and os.path.abspath(path) in targets:
                    yield f'{entry}.{key}', _option(out, targets[os.path.abspath(path)])
        for evaluator in list_evaluators(cfg, split):
            path = os.path.abspath(evaluator.path)
            if path in targets:
                yield f'{evaluator.place}.ann_file', _option(out, targets[path])


def _option(out: Path, name: str) -> str:
    """Return the path of a repaired file.

    Raises:
        ValueError: ``--cfg-options`` would read it as something else.
    """
    path = str(out / name)
    if any(character.isspace() or character in SPECIAL for character in path):
        raise ValueError(
            f'expected names of folders and files without spaces and {" ".join(SPECIAL)}, which '
            f'--cfg-options does not keep, got {path!r}; rename them, or use a link of another name'
        )
    return path


def _common_folder(folders: list[str]) -> str:
    """Return the folder that contains all; their own names below it never collide."""
    return os.path.commonpath(folders) if folders else '.'


def _plain(value: Any) -> Any:
    """Return a value with text in place of NaN and infinite numbers."""
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [*map(_plain, value)] if isinstance(value, (list, tuple)) else value


# --- the folder -----------------------------------------------------------------------------


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f'expected a new folder for the fixed files, got the file {str(out)!r}')
    names = sorted(os.listdir(out)) if out.is_dir() else []
    if names:
        raise ValueError(
            f'expected a new or empty folder for the fixed files, found {first_names(names)} in '
            f'{str(out)!r}; name another one'
        )


def _check_place(out: Path, source: Source) -> None:
    """Refuse a folder in which a dataset would find the fixed files as images of its own."""
    for prefix in source.dataset.data_prefix.values():
        folder = Path(os.path.abspath(prefix or '.'))
        if reads_label_maps(source) and (folder == out or folder in out.parents):
            raise ValueError(
                f'expected a folder for the fixed files outside of {str(folder)!r}, which '
                f'{source.entry} reads, got {str(out)!r}'
            )


@contextmanager
def _written_as_a_whole(out: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes ``out`` at the end; nothing if it stays empty."""
    temporary = out.with_name(f'{out.name}.{os.getpid()}{TEMPORARY}')
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if any(temporary.iterdir()):
            if out.is_dir():
                out.rmdir()  # empty
            os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
