"""Put a ConvNeXt into every config that mmdet and mmseg ship, and say what came of it.

    python dev/exchanged_heads.py
    python dev/exchanged_heads.py --train --only dino

Every config is read, its backbone exchanged, the model built without memory for its weights, and
the optimizer with it; a backbone that cannot be exchanged is listed with the reason. With
``--train``, one config of each architecture also trains a step and predicts at a small size. The
exit status is 1 if a model could not be built though its backbone was exchanged, if a parameter got
no gradient, or if the optimized form computes something else.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from convnext_backbones.benchmark.peers import import_mmpretrain
from convnext_backbones.config.exchange import exchange
from convnext_backbones.engine.build import build_on_meta
from dev.exchanged_training import ARCHITECTURES, TOLERANCE, Trial, quiet, try_out
from dev.shipped_configs import (
    NO_MODEL,
    NOT_INSTALLED,
    SCOPES,
    configs_folder,
    explain,
    group_of_one,
    inside,
    leave_out_downloads,
    list_configs,
    random_bert,
)

# mmdet's own, with which they do not build with their own backbones either.
BROKEN = {
    'cascade_rpn/cascade-rpn_r50-caffe_fpn_1x_coco.py': 'CascadeRPNHead gets no num_classes',
    'v3det/fcos_swinb_fpn_8x4_sample1e-3_mstrain_v3det_2x.py': 'FPN has no force_grad_on_level',
}
# Its neck asks for the sizes of maps 1 to 3 by number, and leaves map 0 unread; the exchange sets
# find_unused_parameters.
WITHOUT_GRADIENT = {'NAS-FCOS': ('backbone.norm0.weight', 'backbone.norm0.bias')}


@dataclass(frozen=True)
class Outcome:
    """What came of a config.

    Attributes:
        config: Its path below the folder of configs.
        refused: Why its backbone was not exchanged; empty if it was.
        failed: Why its model was not built afterwards; empty if it was.
    """

    config: str
    refused: str = ''
    failed: str = ''


# --- all configs ----------------------------------------------------------------------------


def examine_all(scope: str, only: str = '') -> list[Outcome]:
    """Examine the shipped configs whose path contains a text."""
    with contextlib.suppress(ImportError):  # the configs that need it say so
        import_mmpretrain()
    importlib.import_module(f'{scope}.utils').register_all_modules(init_default_scope=False)
    paths = [path for path in list_configs(scope) if only in str(path)]
    with inside(configs_folder(scope).parent), group_of_one(), random_bert(), quiet():
        built: set[str] = set()
        return [examine(path, scope, built) for path in paths]


def examine(path: Path, scope: str, built: set[str]) -> Outcome:
    """Exchange the backbone of a config, and build its model unless there is such a one already."""
    name = str(path.relative_to(configs_folder(scope)))
    try:
        cfg = Config.fromfile(path, import_custom_modules=False)
    except Exception as error:
        return Outcome(name, explain(error))
    if 'model' not in cfg:
        return Outcome(name, NO_MODEL)
    if name in BROKEN:
        return Outcome(name, f'does not build with its own backbone either: {BROKEN[name]}')
    try:
        cfg, _ = exchange(cfg, 'tiny')
    except ValueError as error:
        return Outcome(name, str(error))
    cfg.default_scope = scope
    tuple(leave_out_downloads(cfg.model))
    contents = f'{cfg.model}{cfg.optim_wrapper}'
    if contents in built:
        return Outcome(name)
    try:
        settings = dict(cfg.optim_wrapper, type='OptimWrapper')
        for key in ('loss_scale', 'dtype'):  # of mixed precision, which asks for a GPU
            settings.pop(key, None)
        build_optim_wrapper(build_on_meta(cfg), settings)
    except Exception as error:
        reason = explain(error)
        missing = NOT_INSTALLED.search(str(error)) or reason.startswith('needs ')
        return Outcome(name, reason) if missing else Outcome(name, failed=reason)
    built.add(contents)
    return Outcome(name)


def report(scope: str, outcomes: Sequence[Outcome]) -> str:
    """Return the counts, and the reasons with the configs."""
    exchanged = [one for one in outcomes if not one.refused]
    return '\n'.join(
        [
            f'{scope}: {len(outcomes)} configs, {len(exchanged)} exchanged, '
            f'{sum(not one.failed for one in exchanged)} built',
            *_groups('failed', ((one.config, one.failed) for one in outcomes if one.failed)),
            *_groups('refused', ((one.config, one.refused) for one in outcomes if one.refused)),
        ]
    )


def _groups(title: str, pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield lines of configs by reason, the most frequent first."""
    groups = defaultdict(list)
    for config, reason in pairs:
        groups[reason].append(config)
    for reason, configs in sorted(groups.items(), key=lambda item: -len(item[1])):
        yield f'  {title}, {len(configs)}: {reason}'
        yield from (f'      {config}' for config in configs)


# --- one of each architecture ---------------------------------------------------------------


def problems(trial: Trial) -> list[str]:
    """Return what is wrong with the training or the prediction of an architecture."""
    expected = WITHOUT_GRADIENT.get(trial.name, ())
    found = [f'no gradient: {name}' for name in trial.without_gradient if name not in expected]
    if not trial.difference <= TOLERANCE:  # also of NaN
        found.append(f'optimized, the raw outputs differ by {trial.difference:.1e}')
    return found


def train_all(only: str = '') -> bool:
    """Train and try out one config of each architecture, print a table, return whether all is well.

    Args:
        only: A part of the name of an architecture or of its config.
    """
    print('| architecture | config | raw outputs | largest difference, optimized | problems |')
    print('| --- | --- | --- | --- | --- |')
    fine = True
    for name, config in ARCHITECTURES.items():
        if only not in name and only not in config:
            continue
        with group_of_one(), quiet():
            trial = try_out(name, config)
        wrong = problems(trial)
        fine = fine and not wrong
        print(
            f'| {name} | `{config}` | {trial.outputs} | {trial.difference:.1e} | '
            f'{"; ".join(wrong) or "none"} |',
            flush=True,
        )
    return fine


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--scope', choices=SCOPES, help='by default both')
    parser.add_argument('--only', default='', metavar='TEXT', help='what has this in its name')
    parser.add_argument('--train', action='store_true', help='one of each architecture')
    args = parser.parse_args(argv)
    os.environ['HF_HUB_OFFLINE'] = '1'
    if args.train:
        with contextlib.redirect_stderr(io.StringIO()):
            return int(not train_all(args.only))
    failed = False
    for scope in (args.scope,) if args.scope else SCOPES:
        outcomes = examine_all(scope, args.only)
        print(report(scope, outcomes), flush=True)
        failed = failed or any(one.failed for one in outcomes)
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
