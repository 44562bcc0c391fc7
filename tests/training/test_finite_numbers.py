"""Numbers that are not finite: the training stops or skips, and none of them reaches a weight."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner, find_latest_checkpoint
from mmengine.structures import BaseDataElement
from support.miniatures import leave_configs_unformatted, make_data, miniature
from torch import nn
from torch.utils.data import DataLoader

from convnext_backbones.engine.batch_files import NotFiniteError
from convnext_backbones.engine.hardware import CPUDistributedDataParallel
from convnext_backbones.io.checkpoint import read_checkpoint
from convnext_backbones.training import finite_numbers
from convnext_backbones.training.finite_numbers import FiniteNumbersHook
from tools import train

ROOT = Path(__file__).parents[2]

NAN, INF = math.nan, math.inf
LIMIT = 240  # seconds for one command
NUMBERS = itertools.count()


class Model(BaseModel):
    """Two layers with a norm between; a NaN among the inputs is one in all losses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(1, 4)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 1)

    def forward(self, inputs, data_samples=None, mode='loss'):
        x = self.last(self.norm(self.first(torch.stack(inputs)))).float()
        return dict(loss_a=x.square().mean(), loss_b=(x - 1).abs().mean(), acc=x.detach().max())


def sample(i: int, value: float) -> dict:
    image = BaseDataElement(metainfo=dict(img_path=f'{i}.jpg'))
    return dict(inputs=torch.tensor([value]), data_samples=image)


def prepare(
    work_dir: Path, values: list[float], skips: int = 0, model: nn.Module | None = None, **wrapper
) -> tuple[Runner, FiniteNumbersHook]:
    """A training by batches of two ``values``, one epoch, and its guard."""
    samples = [sample(i, float(value)) for i, value in enumerate(values)]
    wrapper = dict(optimizer=dict(type='AdamW', lr=0.1)) | wrapper
    runner = Runner(
        model=model or Model(),
        work_dir=str(work_dir),
        train_dataloader=DataLoader(samples, batch_size=2, collate_fn=pseudo_collate),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=wrapper.get('built', wrapper),
        param_scheduler=dict(type='ConstantLR', factor=1.0, by_epoch=False),
        default_hooks=dict(checkpoint=None),
        default_scope='mmengine',
        experiment_name=f'numerics{next(NUMBERS)}',
    )
    guard = FiniteNumbersHook(skips)
    runner.register_hook(guard)
    return runner, guard


def stop(runner: Runner) -> str:
    """Train until the guard stops; its message."""
    with pytest.raises(NotFiniteError) as error:
        runner.train()
    return str(error.value)


def log(work_dir: Path) -> str:
    return ''.join(path.read_text() for path in work_dir.rglob('*.log'))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def test_it_stops_before_the_step_and_says_where_what_and_why(tmp_path):
    until, _ = prepare(tmp_path / 'until', [1, 2])
    until.train()
    runner, _ = prepare(tmp_path, [1, 2, 3, NAN, 5, 6])
    message = stop(runner)
    path = tmp_path / 'nonfinite_iter_2.pth'
    assert message.startswith(
        'Stopped at iteration 2 (epoch 1): the loss is not finite (loss=nan, loss_a=nan, '
        'loss_b=nan of 2.jpg, 3.jpg). Parameters with such gradients: first.weight, first.bias, '
        f'norm.weight and 3 more. The state before the step is in {path}. Look at '
    )
    assert message in log(tmp_path)
    state = read_checkpoint(path)
    # Weights, and statistics of norms, are those of the training that never saw the batch.
    assert same(state['state_dict'], until.model.state_dict())
    assert {entry['step'].item() for entry in state['optimizer']['state'].values()} == {1}
    record = state['meta']['nonfinite']
    assert record['batches'][0]['files'] == ['2.jpg', '3.jpg']
    assert math.isnan(record['batches'][0]['losses']['loss_a'])
    assert len(record['parameters']) == 6
    assert find_latest_checkpoint(str(tmp_path)) is None  # nothing to resume from


@pytest.mark.filterwarnings('error:Seems like `optimizer.step')
def test_it_changes_nothing_as_long_as_all_is_finite(tmp_path):
    guarded, guard = prepare(tmp_path / 'guarded', [1, 2, 3, 4], clip_grad=dict(max_norm=1.0))
    free, other = prepare(tmp_path / 'free', [1, 2, 3, 4], clip_grad=dict(max_norm=1.0))
    free.hooks.remove(other)
    for runner in (guarded, free):
        runner.train()
    assert same(guarded.model.state_dict(), free.model.state_dict())
    assert 'parse_losses' not in vars(guarded.model)
    assert not isinstance(guarded.optim_wrapper.step, finite_numbers.partial)
    assert guard.skips == guard.overflows == 0


def test_gradients_are_told_apart_from_losses_and_before_they_are_clipped(tmp_path):
    runner, _ = prepare(tmp_path, [1, 2], clip_grad=dict(max_norm=1.0))
    runner.model.last.weight.register_hook(lambda gradient: gradient * INF)
    message = stop(runner)
    assert 'the gradients are not finite, unlike the loss (loss=' in message
    assert 'of 0.jpg, 1.jpg). Parameters with such gradients: last.weight. ' in message


def test_of_accumulated_batches_it_names_the_bad_one(tmp_path):
    runner, _ = prepare(tmp_path, [1, 2, NAN, 4, 5, 6, 7, 8], accumulative_counts=2)
    message = stop(runner)
    assert 'iteration 2 ' in message and 'of 2.jpg, 3.jpg)' in message
    assert '0.jpg' not in message


@pytest.mark.parametrize('batches', [1, 2])
def test_skipped_steps_leave_no_trace_and_are_counted(batches, tmp_path):
    wrapper = dict(accumulative_counts=batches)
    steps = [[1, 2] * batches, [3, 4] * batches, [5, 6] * batches]
    bad = [*steps[1][:-1], NAN]
    runner, guard = prepare(tmp_path, [*steps[0], *bad, *steps[2]], skips=1, **wrapper)
    runner.train()
    without, _ = prepare(tmp_path / 'without', [*steps[0], *steps[2]], **wrapper)
    without.train()
    assert same(runner.model.state_dict(), without.model.state_dict())
    assert (guard.skips, guard.skips_in_a_row) == (1, 0)
    text = log(tmp_path)
    assert f'Skipped the step of iteration {2 * batches} (epoch 1): the loss is not fin' in text
    assert 'Skipped 1 so far, 1 in a row of at most 1.' in text
    assert 'Steps not taken: 1 because losses or gradients were not finite, 0 be' in text


def test_too_many_skips_in_a_row_stop(tmp_path):
    values = [NAN, 0, 1, 2, NAN, 0, NAN, 0, NAN, 0]
    runner, guard = prepare(tmp_path, values, skips=2)
    assert stop(runner).startswith('Stopped after 2 skipped steps at iteration 5 (epoch 1): ')
    assert guard.skips == 3


def test_a_negative_number_of_skips_is_refused():
    with pytest.raises(ValueError, match='expected --skip-bad-steps of 0 or more, got -1'):
        FiniteNumbersHook(-1)


def test_a_state_that_cannot_be_saved_does_not_hide_the_message(tmp_path):
    runner, _ = prepare(tmp_path, [NAN, 2])
    (tmp_path / 'nonfinite_iter_1.pth').mkdir()
    message = stop(runner)
    assert 'loss=nan' in message and 'could not be saved to' in message


# --- fp16 -----------------------------------------------------------------------------------


@pytest.fixture
def amp(monkeypatch):
    """What mixed precision on a GPU is, on the CPU: ``amp(model, scale, **arguments)``."""
    wrappers = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
    monkeypatch.setattr(f'{wrappers}.is_cuda_available', lambda: True)
    monkeypatch.setattr(
        'mmengine.runner.amp.autocast', lambda dtype: torch.autocast('cpu', dtype=dtype)
    )

    def build(model: nn.Module, scale: float, **arguments) -> AmpOptimWrapper:
        monkeypatch.setattr(
            f'{wrappers}.GradScaler', lambda **_: torch.amp.GradScaler('cpu', init_scale=scale)
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        return AmpOptimWrapper(optimizer=optimizer, **dict(dtype='float16') | arguments)

    return build


def test_an_overflow_is_left_to_the_scaler(amp, tmp_path):
    model = Model()
    wrapper = amp(model, scale=1024.0)
    scaler = wrapper.loss_scaler
    model.last.weight.register_hook(
        lambda gradient: gradient * (INF if scaler.get_scale() > 256 else 1)
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    runner, guard = prepare(tmp_path, [1, 2] * 3, model=model, built=wrapper)
    runner.train()
    assert (guard.overflows, guard.overflows_in_a_row, guard.skips) == (2, 0, 0)
    assert scaler.get_scale() == 256
    assert not same(model.state_dict(), before)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    text = log(tmp_path)
    assert 'iteration 2 (epoch 1) overflowed at a loss scale of 512, which is now 256; no' in text
    assert '0 because losses or gradients were not finite, 2 because gradients overflowed' in text


@pytest.mark.parametrize(
    ('scale', 'arguments', 'end'),
    [
        (4.0, {}, 'At a loss scale of 1, after 2 overflows in a row'),
        (512.0, dict(loss_scale=512.0), 'At a loss scale of 512, after 3 overflows in a row'),
    ],
    ids=['dynamic', 'fixed'],
)
def test_overflows_without_end_are_divergence(scale, arguments, end, amp, tmp_path, monkeypatch):
    monkeypatch.setattr(finite_numbers, 'MOST_OVERFLOWS_IN_A_ROW', 3)
    model = Model()
    model.last.weight.register_hook(lambda gradient: gradient * INF)
    runner, _ = prepare(tmp_path, [1, 2] * 9, model=model, built=amp(model, scale, **arguments))
    message = stop(runner)
    assert 'the gradients are not finite, unlike the loss' in message
    assert f'{end}, this is divergence and not a passing overflow of fp16.' in message


@pytest.mark.parametrize(
    ('value', 'dtype', 'verdict'),
    [
        (1e5, 'float16', ': fp16 overflowed in the forward pass; train with --precision bf16'),
        (NAN, 'float16', 'In fp32 it is not finite either: the training diverged, or the data'),
        (NAN, 'bfloat16', None),
    ],
    ids=['fp16 overflow', 'divergence in fp16', 'divergence in bf16'],
)
def test_a_loss_in_fp16_is_computed_again_in_fp32(value, dtype, verdict, amp, tmp_path):
    model = Model()
    wrapper = amp(model, scale=1024.0, dtype=dtype)
    runner, _ = prepare(tmp_path, [1, 2, 3, value], model=model, built=wrapper)
    message = stop(runner)
    assert 'iteration 2 (epoch 1): the loss is not finite (loss=nan' in message
    assert verdict in message if verdict else 'fp32' not in message
    assert wrapper.loss_scaler.get_scale() == 1024


# --- several processes ----------------------------------------------------------------------


def train_in_one_of_two(out: Path) -> None:
    """What each of two processes runs: the data of the second are bad, in the second batch."""
    torch.distributed.init_process_group('gloo')
    rank = get_rank()
    model = CPUDistributedDataParallel(Model())
    values = [1, 2, 3, NAN if rank else 4, 5, 6]
    runner, _ = prepare(out / 'skip', values, skips=1, model=model)
    runner.train()
    weights = model.module.state_dict()
    model = CPUDistributedDataParallel(Model())
    runner, _ = prepare(out / 'stop', values, model=model)
    message = stop(runner)
    torch.save(dict(weights=weights, message=message), out / f'{rank}.pth')
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_all_processes_stop_and_skip_together(tmp_path):
    paths = [str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')]
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2'),
            *(__file__, str(tmp_path)),
        ],
        env=os.environ | dict(PYTHONPATH=os.pathsep.join(filter(None, paths)), OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    assert first['message'] == second['message']
    assert 'loss_b=nan of 2.jpg, 3.jpg)' in first['message']
    parameters = [name for name in first['weights'] if 'running' not in name]
    for name in parameters:
        assert first['weights'][name].equal(second['weights'][name])
    assert all(tensor.isfinite().all() for tensor in second['weights'].values())
    assert log(tmp_path / 'stop').count('Stopped at iteration 2') == 1


# --- the command ----------------------------------------------------------------------------


@HOOKS.register_module()
class PoisonHook(Hook):
    """Makes the scores of the segmentor NaN in the third iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == 2:
            handle = runner.model.decode_head.conv_seg.register_forward_hook(
                lambda module, inputs, output: (handle.remove(), output * NAN)[1]
            )


def test_the_command_stops_or_skips_and_resumes(tmp_path, monkeypatch):
    leave_configs_unformatted(monkeypatch)
    monkeypatch.setattr('convnext_backbones.training.records.draw_results', lambda rows, path: None)
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    cfg = miniature('seg', tmp_path / 'work', length=4)
    cfg.custom_hooks = [dict(type='PoisonHook')]
    cfg.dump('config.py')
    with pytest.raises(SystemExit) as end:
        train.main(['config.py', '--work-dir', 'stopped'])
    assert end.value.code == 1
    text = log(tmp_path / 'stopped')
    assert 'Stopped at iteration 3: the loss is not finite (loss=nan, decode.loss_ce=nan' in text
    state = read_checkpoint('stopped/nonfinite_iter_3.pth')
    assert all(Path(file).is_file() for file in state['meta']['nonfinite']['batches'][0]['files'])
    assert all(tensor.isfinite().all() for tensor in state['state_dict'].values())
    assert find_latest_checkpoint('stopped').endswith('iter_2.pth')

    train.main(['config.py', '--work-dir', 'stopped', '--resume', '--skip-bad-steps'])
    assert 'Skipped the step of iteration 3' in log(tmp_path / 'stopped')
    weights = read_checkpoint('stopped/iter_4.pth')['state_dict']
    assert all(tensor.isfinite().all() for tensor in weights.values())


if __name__ == '__main__':
    train_in_one_of_two(Path(sys.argv[1]))
