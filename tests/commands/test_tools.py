"""The tools end to end, as a user runs them, on a miniature of the sample configs."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from support.miniatures import gloo_only

from convnext_backbones.io.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
SAMPLE = ROOT / 'configs/sample/upernet_convnext_sample.py'
IMAGES = {'det': 'data/sample/coco/val', 'seg': 'data/sample/ade20k/images/validation'}
LIMIT = 240  # seconds for one command

# A user's config over the sample one: everything small, everything in the main process.
MINIATURE = """
_base_ = ['{base}']
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval={interval}, max_keep_ckpts=2))
train_cfg = dict({length}={total}, val_interval={total})
"""


@dataclass(frozen=True)
class Case:
    """What differs between the tasks: ``total`` counts epochs or iterations."""

    task: str
    base: str
    length: str
    interval: int
    total: int
    metric: str


CASES = {
    'det': Case('det', 'mask_rcnn_convnext_sample.py', 'max_epochs', 1, 2, 'coco/bbox_mAP'),
    'seg': Case('seg', 'upernet_convnext_sample.py', 'max_iters', 4, 8, 'mIoU'),
}


def environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    return os.environ | dict(PYTHON=sys.executable, PYTHONPATH=os.pathsep.join(filter(None, paths)))


def start(cwd: Path, name: str, *args, **variables: str) -> subprocess.Popen:
    program = [str(TOOLS / name)]
    if name.endswith('.py'):
        program.insert(0, sys.executable)
    return subprocess.Popen(
        [*program, *map(str, args)],
        cwd=cwd,
        env=environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(cwd: Path, name: str, *args, status: int = 0) -> str:
    """Run a tool; what it printed, after checking its exit status."""
    process = start(cwd, name, *args)
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == status, output[-5000:]
    return output


@dataclass
class Trained:
    """A work space with data, a miniature config and a checkpoint of its training."""

    case: Case
    cwd: Path
    config: Path
    checkpoint: Path
    log: str


# Of what takes both tasks through the same code at length, the detector's turn is a slow test.
BOTH_TASKS = ['seg', pytest.param('det', marks=pytest.mark.slow)]


@pytest.fixture(scope='module', params=CASES)
def trained(request, tmp_path_factory) -> Trained:
    case = CASES[request.param]
    cwd = tmp_path_factory.mktemp(case.task)
    run(cwd, 'make_sample_data.py', 'data/sample', '--train=8', '--val=4', '--size=96')
    config = cwd / f'miniature_{case.task}.py'
    config.write_text(
        MINIATURE.format(
            base=ROOT / 'configs' / 'sample' / case.base,
            length=case.length,
            interval=case.interval,
            total=case.total,
        )
    )
    log = run(cwd, 'train.py', config, '--amp')
    work_dir = cwd / 'work_dirs' / config.stem
    checkpoint = Path((work_dir / 'last_checkpoint').read_text())
    return Trained(case, cwd, config, checkpoint, log)


def test_training_says_what_it_does(trained):
    assert trained.checkpoint.is_file()
    assert 'The backbone starts from random weights' in trained.log
    assert trained.case.metric.split('/')[-1] in trained.log  # evaluated at the end
    if not torch.cuda.is_available():
        sync_bn = 'SyncBN became BN; ' if trained.case.task == 'seg' else ''
        assert f'No GPU on this machine: {sync_bn}mixed precision is off.' in trained.log
        assert trained.log.count("mmcv's operators are computed by") == 1
    losses = [float(loss) for loss in re.findall(r' loss: ([\d.]+)', trained.log)]
    assert len(losses) == 8 and np.isfinite(losses).all()


def test_evaluation_writes_metrics_predictions_and_pictures(trained):
    case = trained.case
    out, shown, work_dir = (trained.cwd / name for name in ('out', 'shown', 'tested'))
    flags = ['--out', out, '--show-dir', shown, '--work-dir', work_dir]
    run(trained.cwd, 'test.py', trained.config, trained.checkpoint, *flags)
    metrics = json.loads((work_dir / 'metrics.json').read_text())
    assert case.metric in metrics
    pictures = [p for p in shown.rglob('*') if p.suffix in ('.jpg', '.png')]
    assert len(pictures) == 4 and all(cv2.imread(str(p)) is not None for p in pictures)
    if case.task == 'det':
        boxes = json.loads((out / 'predictions.bbox.json').read_text())
        masks = json.loads((out / 'predictions.segm.json').read_text())
        assert len(boxes) == len(masks) and {'image_id', 'bbox', 'score'} <= set(boxes[0])
    else:
        assert len(list(out.glob('*.png'))) == 4


def test_test_time_augmentation_runs_optimized(trained):
    work_dir = trained.cwd / 'tta'
    run(
        trained.cwd,
        'test.py',
        *(trained.config, trained.checkpoint, '--tta', '--optimize', '--work-dir', work_dir),
    )
    metrics = json.loads((work_dir / 'metrics.json').read_text())
    assert trained.case.metric in metrics
    assert 'coco/segm_mAP' not in metrics  # mmdet cannot merge masks


def test_predict_draws_and_saves_and_names_the_bad_image(trained):
    folder = trained.cwd / 'pictures'
    folder.mkdir(exist_ok=True)
    sources = sorted((trained.cwd / IMAGES[trained.case.task]).iterdir())[:2]
    for source in sources:
        (folder / source.name).write_bytes(source.read_bytes())
    (folder / 'broken.jpg').write_bytes(b'not an image')
    out = trained.cwd / 'predicted'
    flags = ['--out', out, '--score-thr', '0']
    log = run(
        trained.cwd,
        *('predict.py', trained.config, trained.checkpoint, folder, *flags),
        status=1,
    )
    assert 'broken.jpg: the file is damaged or not an image' in log
    saved = json.loads((out / 'predictions.json').read_text())
    assert set(saved['images']) == {source.name for source in sources}
    for source in sources:
        overlay = cv2.imread(str(out / 'overlays' / source.name))
        assert overlay.shape == cv2.imread(str(source)).shape
        record = saved['images'][source.name]
        if trained.case.task == 'det':
            from pycocotools import mask

            instance = record['instances'][0]
            assert instance['category'] in saved['classes']
            assert mask.decode(instance['mask']).shape == overlay.shape[:2]
        else:
            labels = cv2.imread(str(out / 'label_maps' / record['label_map']), cv2.IMREAD_GRAYSCALE)
            share = (labels == saved['classes'].index(next(iter(record['share'])))).mean()
            assert share == pytest.approx(next(iter(record['share'].values())), abs=1e-4)


def test_predict_takes_one_image_optimized(trained):
    image = sorted((trained.cwd / IMAGES[trained.case.task]).iterdir())[0]
    out = trained.cwd / 'one'
    args = trained.config, trained.checkpoint, image, '--out', out, '--optimize'
    run(trained.cwd, 'predict.py', *args)
    assert (out / 'overlays' / image.name).is_file()


@pytest.mark.parametrize('trained', BOTH_TASKS, indirect=True)
def test_killed_training_resumes(trained):
    case = trained.case
    work_dir = trained.cwd / 'killed'
    process = start(
        trained.cwd,
        'train.py',
        *(trained.config, '--work-dir', work_dir, '--cfg-options', f'train_cfg.{case.length}=500'),
    )
    pointer = work_dir / 'last_checkpoint'
    deadline = time.monotonic() + LIMIT
    while not pointer.exists() or not pointer.read_text():
        assert process.poll() is None, process.communicate()[0][-5000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate()
    reached = int(re.search(r'_(\d+)\.pth', pointer.read_text())[1])
    total = reached + case.interval
    log = run(
        trained.cwd,
        'train.py',
        *(trained.config, '--work-dir', work_dir, '--resume'),
        *('--cfg-options', f'train_cfg.{case.length}={total}'),
    )
    assert re.search(rf'resumed epoch: {reached if case.task == "det" else 0}, iter: \d+', log)
    assert f'_{total}.pth' in pointer.read_text()
    state = read_checkpoint(pointer.read_text())
    assert state['meta']['epoch' if case.task == 'det' else 'iter'] == total


def test_resuming_from_a_missing_checkpoint_is_said(trained):
    log = run(trained.cwd, 'train.py', trained.config, '--resume', 'none.pth', status=1)
    assert "train: expected a checkpoint to resume from, found no file at 'none.pth'" in log


@pytest.mark.parametrize('trained', BOTH_TASKS, indirect=True)
def test_a_checkpoint_that_would_execute_code_is_refused(trained):
    class Malicious:
        def __reduce__(self):
            return os.system, (f'touch {trained.cwd}/executed',)

    path = trained.cwd / 'forged.pth'
    torch.save({'state_dict': {}, 'meta': Malicious()}, path)
    image = sorted((trained.cwd / IMAGES[trained.case.task]).iterdir())[0]
    commands = {
        'test.py': (trained.config, path),
        'predict.py': (trained.config, path, image, '--out', trained.cwd / 'forged'),
        'train.py': (trained.config, '--resume', path, '--work-dir', trained.cwd / 'forged'),
    }
    for name, args in commands.items():
        log = run(trained.cwd, name, *args, status=1)
        assert 'would execute posix.system' in log.splitlines()[-1], name
    assert not (trained.cwd / 'executed').exists()


def run_by_two(trained: Trained, name: str, *args) -> str:
    """Run a script with two processes, the detector's on two nodes; what the first node printed.

    ``args`` have an Ellipsis where the number of processes per node belongs.
    """
    nodes = 2 if trained.case.task == 'det' else 1
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    args = [2 // nodes if arg is ... else arg for arg in args]
    processes = [
        start(trained.cwd, name, *args, PORT=port, NNODES=str(nodes), NODE_RANK=str(rank))
        for rank in range(nodes)
    ]
    outputs = [process.communicate(timeout=LIMIT)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-5000:]
    return outputs[0]


@gloo_only
@pytest.mark.parametrize('trained', BOTH_TASKS, indirect=True)
def test_two_processes_train_and_test_over_gloo(trained):
    case = trained.case
    work_dir = trained.cwd / 'gloo'
    log = run_by_two(trained, 'dist_train.sh', trained.config, ..., '--work-dir', work_dir)
    assert 'processes talk over gloo' in log
    # Half the iterations of one process: each has its own half of the epoch.
    if case.task == 'det':
        assert '/2]' in log and '/4]' not in log
    checkpoint = Path((work_dir / 'last_checkpoint').read_text())
    run_by_two(trained, 'dist_test.sh', trained.config, checkpoint, ..., '--work-dir', work_dir)
    shared = json.loads((work_dir / 'metrics.json').read_text())
    alone_dir = trained.cwd / 'alone'
    run(trained.cwd, 'test.py', trained.config, checkpoint, '--work-dir', alone_dir)
    alone = json.loads((alone_dir / 'metrics.json').read_text())
    names = [name for name in alone if 'time' not in name]
    assert case.metric in names
    assert [shared[n] for n in names] == pytest.approx([alone[n] for n in names], nan_ok=True)


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['train.py', 'none.py'], "train: expected a config file, found none at 'none.py'"),
        (['test.py', SAMPLE, 'none.pth'], 'test: expected the name of published weights, a file'),
        (['train.py', 'empty.py'], "expected a config with default_scope='mmdet' or 'mmseg'"),
        (['dist_train.sh', 'empty.py'], 'usage: '),
    ],
)
def test_wrong_commands_get_one_sentence(args, message, tmp_path):
    (tmp_path / 'empty.py').write_text('')
    process = start(tmp_path, *args)
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode in (1, 2)
    assert message in output.splitlines()[-1]


def test_auto_scale_lr_needs_a_base_batch_size(tmp_path):
    config = Config.fromfile(ROOT / 'configs/sample/mask_rcnn_convnext_sample.py')
    config.pop('auto_scale_lr')
    config.dump(tmp_path / 'config.py')
    log = run(tmp_path, 'train.py', 'config.py', '--auto-scale-lr', status=1)
    assert 'expected auto_scale_lr=dict(base_batch_size=...)' in log.splitlines()[-1]
