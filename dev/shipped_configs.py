"""Count the configs of mmdet and mmseg that run with an operator provider.

    python dev/shipped_configs.py --provider torch

Every config that the installed mmdet and mmseg ship is read, its model built without weights, and
the operators of mmcv that the model can call are looked up in the provider. The exit status is 1
if one is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import io
import json
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent))
from convnext_backbones.benchmark.peers import import_mmpretrain
from dev.called_operators import called_by, code_of, named, parts

SCOPES = ('mmdet', 'mmseg')
PROVIDERS = ('mmcv', 'torchvision', 'torch')
NO_MODEL = 'no model of their own: others take their data and schedules from them'
# In mmdet's, mmpretrain's and Python's words.
NOT_INSTALLED = re.compile(
    r"No module named '(\w+)|(\w+) is not installed|[Pp]lease install (\w+) first"
    r'|requires (\w+), please install'
)
HasOperator = Callable[[str], bool]


@dataclass(frozen=True)
class Outcome:
    """What came of a config.

    Attributes:
        config: Its path below the folder of configs; or the name of a package, for what it calls
            outside of its models.
        reason: Why its model was not built; empty if it was.
        left_out: What was not built of it, and why.
        operators: Those of mmcv that the model can call.
        missing: Those of them that the provider lacks.
    """

    config: str
    reason: str = ''
    left_out: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


# --- one config -----------------------------------------------------------------------------


def configs_folder(scope: str) -> Path:
    """Return where an installed mmdet or mmseg keeps the configs that it ships."""
    return Path(str(importlib.import_module(scope).__file__)).parent / '.mim/configs'


def list_configs(scope: str) -> list[Path]:
    """Return the shipped configs, without the fragments in ``_base_``."""
    paths = sorted(configs_folder(scope).rglob('*.py'))
    return [path for path in paths if '_base_' not in path.parts]


def examine(path: Path, scope: str, has_operator: HasOperator) -> Outcome:
    """Build a config's model, and look up the operators that it can call."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    name = str(path.relative_to(configs_folder(scope)))
    try:
        cfg = Config.fromfile(path)
        if 'model' not in cfg:
            return Outcome(name, NO_MODEL)
        left_out = sorted({*leave_out_downloads(cfg.model)})
        if 'mmpretrain' in str(cfg.model) and find_spec('torchvision') is None:
            left_out.append('torchvision, which mmpretrain imports, for a metric')
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or scope):
            roots = [*parts(build(cfg.model)), *named(cfg.to_dict())]
            if 'tta_model' in cfg:
                roots.append(MODELS.get(cfg.tta_model.type))
    except Exception as error:
        return Outcome(name, explain(error))
    return look_up(name, roots, has_operator, left_out)


def examine_package(scope: str, has_operator: HasOperator) -> Outcome:
    """Look up what a package calls outside of its models: data, evaluation, inference."""
    importlib.import_module(f'{scope}.apis')
    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(f'{scope}.') and not name.startswith(f'{scope}.models')
    ]
    return look_up(scope, [item for module in modules for item in code_of(module)], has_operator)


def look_up(
    name: str, roots: Iterable[Any], has_operator: HasOperator, left_out: Iterable[str] = ()
) -> Outcome:
    """Return the outcome of a config whose model was built."""
    operators = sorted(called_by(roots))
    missing = (operator for operator in operators if not has_operator(operator))
    return Outcome(name, '', tuple(left_out), tuple(operators), tuple(missing))


def build(cfg: Any) -> Any:
    """Build a model, without memory for its weights where its code allows that."""
    import torch
    from mmengine.registry import MODELS

    try:
        with torch.device('meta'):
            return MODELS.build(copy.deepcopy(cfg))  # some models change their config
    except Exception:  # mostly of code that looks at the values of a tensor
        return MODELS.build(cfg)


def leave_out_downloads(cfg: Any) -> Iterator[str]:
    """Remove from a model's config what has to be downloaded, and yield what that was."""
    if isinstance(cfg, (list, tuple)):
        for value in cfg:
            yield from leave_out_downloads(value)
    if not isinstance(cfg, dict):
        return
    if 'language_model' in cfg or 'lang_model_name' in cfg:
        yield "BERT's weights and vocabulary, a download"
    for key, value in list(cfg.items()):
        if key == 'pretrained' and value is True:  # of timm, which loads while it builds
            cfg[key] = False
            yield 'weights of timm, a download'
        elif key.endswith(('ckpt', 'checkpoint')) and cfg.get('type') != 'Pretrained':
            cfg[key] = None
            yield f'the weights of {key}, a download'
        else:
            yield from leave_out_downloads(value)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Change the working directory: configs name those of their teachers from the folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def group_of_one() -> Iterator[None]:
    """Be the only process of a distributed training, without which MMSyncBN is not built."""
    import torch.distributed as dist

    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def random_bert() -> Iterator[None]:
    """Let transformers, if it is installed, build the BERT of mmdet's configs offline."""
    try:
        from transformers import AutoTokenizer, BertConfig, BertModel
    except ImportError:
        yield
        return
    tokenizer = SimpleNamespace(convert_tokens_to_ids=lambda tokens: [0] * len(tokens))
    with (
        patch.object(BertConfig, 'from_pretrained', lambda name, **_: BertConfig()),
        patch.object(
            BertModel,
            'from_pretrained',
            lambda name, config, add_pooling_layer=True, **_: BertModel(config, add_pooling_layer),
        ),
        patch.object(AutoTokenizer, 'from_pretrained', lambda name, **_: tokenizer),
    ):
        yield


def explain(error: BaseException) -> str:
    """Return why a config was not built, such that the same cause has the same words."""
    cause = error
    while cause.__cause__ is not None and not isinstance(cause, ModuleNotFoundError):
        cause = cause.__cause__
    text = ' '.join(str(cause).split())
    package = NOT_INSTALLED.search(text)
    if package:
        return f'needs {next(filter(None, package.groups()))}, which is not installed'
    if isinstance(cause, FileNotFoundError):
        file = cause.filename or text.split('"')[1]
        return f'includes {Path(file).name}, which is not at the place that it names'
    if 'object.__init__() takes exactly one argument' in text:
        return 'needs an older transformers: mmdet imports functions that are gone from this one'
    return f'{type(cause).__name__} in its building: {text}'


# --- all ------------------------------------------------------------------------------------


def examine_all(scope: str, has_operator: HasOperator, only: str = '') -> list[Outcome]:
    """Examine the shipped configs whose path contains a text, and the package itself."""
    with contextlib.suppress(ImportError):  # the configs that need it say so
        import_mmpretrain()
    importlib.import_module(f'{scope}.utils').register_all_modules(init_default_scope=False)
    outcomes = [examine_package(scope, has_operator)]
    paths = [path for path in list_configs(scope) if only in str(path)]
    with inside(configs_folder(scope).parent), group_of_one(), random_bert():
        for number, path in enumerate(paths, 1):
            with contextlib.redirect_stdout(io.StringIO()):  # some heads print
                outcomes.append(examine(path, scope, has_operator))
            if sys.stderr.isatty():
                print(
                    f'\r{scope} {number}/{len(paths)}',
                    end='\n' * (number == len(paths)),
                    file=sys.stderr,
                    flush=True,
                )
    return outcomes


def report(scope: str, outcomes: Sequence[Outcome]) -> str:
    """Return the counts, the reasons with the configs, and the operators with their counts."""
    package, *configs = outcomes
    models = [outcome for outcome in configs if outcome.reason != NO_MODEL]
    built = [outcome for outcome in models if not outcome.reason]
    complete = [outcome for outcome in built if not outcome.missing]
    counts = Counter(operator for outcome in built for operator in outcome.operators)
    return '\n'.join(
        [
            f'{scope}: {len(configs)} configs, {len(models)} with a model, {len(built)} built, '
            f'{len(complete)} with all operators',
            *_groups('not built', ((o.config, o.reason) for o in configs if o.reason)),
            *_groups('built without', ((o.config, what) for o in built for what in o.left_out)),
            *_groups('missing', ((o.config, name) for o in outcomes for name in o.missing)),
            'operators, with the number of configs whose model can call them:',
            *(f'  {counts[name]:5} {name}' for name in sorted(counts)),
            f'  outside of the models: {", ".join(package.operators) or "none"}',
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


def find_provider(name: str) -> tuple[str, HasOperator]:
    """Return the provider of this process, described, and a test for its operators.

    Args:
        name: One of :data:`PROVIDERS`, or nothing for the best.
    """
    if name:
        os.environ['CONVNEXT_BACKBONES_OPS'] = name
    from convnext_backbones.ops.providers import describe

    extension = importlib.import_module('mmcv._ext')
    return describe(extension), lookup_in(extension)


def lookup_in(extension: ModuleType) -> HasOperator:
    """Return a test for the operators of a module that serves as ``mmcv._ext``."""
    # A stand-in has a function for every name, which may only say that the operator is missing.
    operators = getattr(extension, 'operators', None)
    if operators is None:
        return lambda name: hasattr(extension, name)
    return lambda name: name in operators


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--provider', choices=PROVIDERS, help='by default the best that runs')
    parser.add_argument('--scope', choices=SCOPES, help='by default both')
    parser.add_argument(
        '--only', default='', metavar='TEXT', help='configs with this in their path'
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the outcomes, too')
    args = parser.parse_args(argv)
    os.environ['HF_HUB_OFFLINE'] = '1'
    description, has_operator = find_provider(args.provider or '')
    print(f'operators of {description}')
    outcomes = {}
    for scope in (args.scope,) if args.scope else SCOPES:
        outcomes[scope] = examine_all(scope, has_operator, args.only)
        print(report(scope, outcomes[scope]), flush=True)
    if args.json:
        rows = {scope: [asdict(outcome) for outcome in found] for scope, found in outcomes.items()}
        args.json.write_text(json.dumps(rows, indent=1))
    return int(any(outcome.missing for found in outcomes.values() for outcome in found))


if __name__ == '__main__':
    sys.exit(main())
