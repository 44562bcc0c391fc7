"""Train every step from ResNet to ConvNeXt on the generated sample data, with an equal budget.

    python dev/roadmap_runs.py                                   # hours on two CPU cores
    python dev/roadmap_runs.py --task detection --seeds 3
    python dev/roadmap_runs.py --steps resnet convnext --seeds 1 --length 2

Each training starts from random weights, sees the same number of images in the order of its seed,
and differs from the others in nothing but the step. The networks are a quarter as wide as the
paper's. Trainings that are finished are not repeated, so that an interrupted run goes on. The
table, in Markdown, has the mean and the standard deviation over the seeds.

Small networks on small data rank steps otherwise than the paper's on ImageNet: the table says what
happens here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from convnext_backbones.config.loading import load_config
from convnext_backbones.engine.build import build_on_meta
from convnext_backbones.io.files import write_atomically, write_json
from convnext_backbones.models.roadmap_steps import REGIMES, STEPS, find_step, title_of
from convnext_backbones.reports.results_table import RESULTS, read_rows

ROOT = Path(__file__).resolve().parent.parent
DATA = Path('data/sample')
SIDE = 160  # pixels of the sample images
OUTCOME, LOG, TABLE = 'outcome.json', 'train.log', 'roadmap.md'


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        config: The sample config, below the repository.
        metric: Column of the results.
        name: The metric in words.
        percent: Factor that makes percent of it.
        length: Entry of ``train_cfg`` with the length of a training.
    """

    config: str
    metric: str
    name: str
    percent: float
    length: str


TASKS = {
    'segmentation': Task(
        'configs/roadmap/upernet_roadmap_sample.py', 'mIoU', 'mIoU', 1.0, 'max_iters'
    ),
    'detection': Task(
        'configs/roadmap/mask_rcnn_roadmap_sample.py',
        'coco/segm_mAP',
        'mask AP',
        100.0,
        'max_epochs',
    ),
}


def options_of(task: Task, step: str, regime: str, length: int | None) -> dict[str, object]:
    """Return what a training overrides in the config of its task.

    Args:
        task: The task.
        step: Name of the step.
        regime: ``T`` or ``B``.
        length: Iterations of a segmentor or epochs of a detector; None is the config's.
    """
    options: dict[str, object] = {'model.backbone.step': step, 'model.backbone.regime': regime}
    if length is not None:
        options |= {f'train_cfg.{key}': length for key in (task.length, 'val_interval')}
        options['param_scheduler.1.T_max'] = length
        options['default_hooks.checkpoint.interval'] = length
        options['default_hooks.logger.interval'] = 1
    return options


def read_outcome(task: Task, folder: Path) -> dict[str, float]:
    """Return the metric of a finished training, in percent, and its seconds per iteration.

    Raises:
        ValueError: The training left no such metric.
    """
    rows = read_rows(folder / RESULTS)[1]
    metrics = [float(row[task.metric]) for row in rows if task.metric in row]
    times = [float(row['time']) for row in rows if row.get('split') == 'train' and 'time' in row]
    if not metrics or not times:
        raise ValueError(f'expected {task.metric} and times in {folder / RESULTS}, found none')
    return dict(metric=task.percent * metrics[-1], seconds=statistics.median(times))


def train_once(task: Task, folder: Path, seed: int, options: dict[str, object]) -> dict[str, float]:
    """Train a network, unless that is done, and return its outcome.

    Args:
        task: The task.
        folder: For the training.
        seed: Of the weights and the order of the images.
        options: What it overrides in the config.

    Raises:
        RuntimeError: The training failed; its log says why.
    """
    done = folder / OUTCOME
    wanted = {**options, 'randomness.seed': seed}
    if done.is_file():
        kept = json.loads(done.read_text())
        if kept['options'] == wanted:
            return kept['outcome']
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    overrides = [f'{key}={value}' for key, value in wanted.items()]
    command = [sys.executable, ROOT / 'tools/train.py', ROOT / task.config, '--work-dir', folder]
    command += ['--cfg-options', *overrides]
    with (folder / LOG).open('w') as log:
        status = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT).returncode
    if status:
        raise RuntimeError(f'a training ended with status {status}; see {folder / LOG}')
    outcome = read_outcome(task, folder)
    for checkpoint in folder.glob('*.pth'):  # of 51 trainings nobody needs them all
        checkpoint.unlink()
    write_json(done, dict(options=wanted, outcome=outcome))
    return outcome


def count_macs(task: Task, options: dict[str, object]) -> float:
    """Return the multiply-adds of a backbone for one sample image, in 1e9."""
    from convnext_backbones.benchmark.counting import count_parts

    parts = count_parts(build_on_meta(load_config(ROOT / task.config, options)), (SIDE, SIDE))
    return sum(part.macs for part in parts if part.name.startswith('backbone')) / 1e9


def table(task: Task, regime: str, outcomes: dict[str, list[dict[str, float]]]) -> str:
    """Return the Markdown table of the steps that are trained.

    Args:
        task: The task.
        regime: ``T`` or ``B``.
        outcomes: By step, the outcome of each seed.
    """
    lines = [f'| step | {task.name}, % | seeds | s per iteration | GMACs of the backbone |']
    lines.append('| --- | --- | --- | --- | --- |')
    for step, found in outcomes.items():
        values = [one['metric'] for one in found]
        spread = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
        seconds = statistics.median(one['seconds'] for one in found)
        lines.append(
            f'| {title_of(step, regime)} | {statistics.mean(values):.2f}{spread} | {len(values)} '
            f'| {seconds:.3f} | {found[0]["gmacs"]:.2f} |'
        )
    return '\n'.join(lines)


def run_all(args: argparse.Namespace) -> None:
    """Train all steps, seed by seed, and write the table after each training."""
    task, folder = TASKS[args.task], args.out / args.task / args.regime
    steps: Sequence[str] = [find_step(int(s) if s.isdigit() else s) for s in args.steps or STEPS]
    outcomes: dict[str, list[dict[str, float]]] = {step: [] for step in steps}
    for seed in range(args.seeds):
        for step in steps:
            options = options_of(task, step, args.regime, args.length)
            outcome = train_once(task, folder / f'{step}-{seed}', seed, options)
            gmacs = count_macs(task, options)
            outcomes[step].append({**outcome, 'gmacs': gmacs})
            print(f'{step}, seed {seed}: {task.name} {outcome["metric"]:.2f}', flush=True)
            known = {name: found for name, found in outcomes.items() if found}
            write_atomically(folder / TABLE, f'{table(task, args.regime, known)}\n')
    print((folder / TABLE).read_text())


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--task', choices=TASKS, default='segmentation')
    parser.add_argument('--regime', choices=REGIMES, default='T')
    parser.add_argument('--steps', nargs='+', metavar='STEP', help='default: all')
    parser.add_argument('--seeds', type=int, default=3, help='trainings of each step')
    parser.add_argument(
        '--length', type=int, help="iterations, epochs of a detector; default: the config's"
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/roadmap'))
    args = parser.parse_args(argv)
    args.out = args.out.resolve()
    try:
        if not (ROOT / DATA).is_dir():
            command = [sys.executable, ROOT / 'tools/make_sample_data.py', ROOT / DATA]
            subprocess.run(command, cwd=ROOT, check=True)
        run_all(args)
    except (OSError, RuntimeError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f'roadmap_runs: {error}')


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like an interruption
    main()
