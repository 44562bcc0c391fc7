"""Runs of tools/test.py and tools/evaluate.py with models that run no network."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tools import evaluate as evaluate_tool
from tools import make_sample_data as maker
from tools import test as test_tool

ROOT = Path(__file__).resolve().parents[2]
NOISY = """
_base_ = ['{base}']
custom_imports = dict(imports=['convnext_backbones', 'support.noisy_models'])
model = dict(_delete_=True, type='{model}')
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
"""


def read_json(path: Path):
    """Read JSON strictly: without the NaN that Python's reader accepts."""

    def refuse(constant: str):
        raise ValueError(f'{constant} in {path}')

    return json.loads(path.read_text(), parse_constant=refuse)


@dataclass
class Online:
    """Outcome of tools/test.py with a noisy model, in a folder with the data."""

    cwd: Path
    config: Path
    checkpoint: Path
    flags: list[str]
    dump: Path
    work_dir: Path
    out: Path
    metrics: dict


CASES = {
    'det': ('mask_rcnn_convnext_sample.py', 'NoisyDetector', ['--classwise']),
    'seg': ('upernet_convnext_sample.py', 'NoisySegmentor', []),
}


def run_online(task: str, cwd: Path) -> Online:
    """Run tools/test.py on generated data in ``cwd``."""
    base, model, flags = CASES[task]
    maker.make_sample_data(cwd / 'data/sample', maker.Options(train=1, val=3, size=96, seed=0))
    config = cwd / f'{task}.py'
    config.write_text(NOISY.format(base=ROOT / 'configs/sample' / base, model=model))
    names = ('none.pth', 'kept/predictions.pt', 'online', 'online_out')
    checkpoint, dump, work_dir, out = (cwd / name for name in names)
    torch.save({'state_dict': {}}, checkpoint)
    args = [config, checkpoint, *flags, '--dump', dump, '--work-dir', work_dir, '--out', out]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        test_tool.main([*map(str, args), '--cfg-options', f'experiment_name=online_{task}'])
    metrics = read_json(work_dir / 'metrics.json')
    return Online(cwd, config, checkpoint, flags, dump, work_dir, out, metrics)


def evaluate(*args) -> None:
    """Run tools/evaluate.py."""
    evaluate_tool.main([*map(str, args)])


def refusal(*args) -> str:
    """Return the one sentence that tools/evaluate.py ends with."""
    with pytest.raises(SystemExit) as caught:
        evaluate(*args)
    sentence = caught.value.code
    assert sentence.startswith('evaluate: ') and '\n' not in sentence
    return sentence
