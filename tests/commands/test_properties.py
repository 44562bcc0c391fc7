"""Bad input in bulk: the answer is a result or a documented error of one line, and comes soon.

Every property is tried with a few generated cases by default, and with thousands in its slow test.
The cases are the same in every run.
"""

from __future__ import annotations

import io
import json
import re
import signal
import traceback
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, configuration, given, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask
from support.bad_input import (
    TRAINING_FLAGS,
    constructor_arguments,
    decay_settings,
    edited,
    forged,
    inputs,
    json_files,
    mutations,
    override_texts,
    overrides,
    prediction_files,
)
from support.miniatures import leave_configs_unformatted, miniature
from torch import nn

import convnext_backbones
from convnext_backbones import ConvNeXt, ConvNeXtClassifier, load_weights, optimize_for_inference
from convnext_backbones.checks.coco import check_coco
from convnext_backbones.checks.findings import Finding
from convnext_backbones.checks.sources import build_sources
from convnext_backbones.config.errors import config_errors
from convnext_backbones.config.flags import runner_parser
from convnext_backbones.config.loading import load_run_config
from convnext_backbones.config.plain import plain_config, read_plain_config
from convnext_backbones.engine.build import build_model
from convnext_backbones.engine.runner import backbone_starts_from_scratch
from convnext_backbones.evaluation.predictions import check_predictions, read_predictions
from convnext_backbones.io.checkpoint import write_safetensors
from convnext_backbones.models.trunk import AUTOCAST_TYPES
from convnext_backbones.training.flags import add_training_flags, set_training_flags
from convnext_backbones.training.records import set_records

PACKAGE = str(Path(convnext_backbones.__file__).parent)
SECONDS = 30  # for one case

FEW_OR_MANY = pytest.mark.parametrize(
    'examples', [pytest.param(25, id='few'), pytest.param(2000, id='bulk', marks=pytest.mark.slow)]
)


class Hang(BaseException):
    """No Exception: code that turns every exception into an error of its own must not see it."""


@contextmanager
def time_limit():
    def stop(number, frame):
        raise Hang

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    except Hang:
        raise AssertionError(f'a case took more than {SECONDS} seconds') from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.fixture
def try_out(tmp_path, monkeypatch):
    """``try_out(check, cases, examples)`` gives ``check`` that many cases, each in limited time."""
    configuration.set_hypothesis_home_dir(tmp_path / 'hypothesis')  # not in the checkout
    # It would also try constants of the modules that happen to be imported.
    monkeypatch.setattr(providers, '_get_local_constants', Constants)

    def run(check: Callable, cases: st.SearchStrategy, examples: int) -> None:
        tried = 0

        @settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(cases)
        def run_one(case):
            nonlocal tried
            tried += 1
            with time_limit():
                check(case)

        run_one()
        assert tried >= examples

    return run


def is_one_line(error: Exception) -> bool:
    return bool(str(error)) and '\n' not in str(error)


# --- constructor arguments and inputs -------------------------------------------------------


@FEW_OR_MANY
def test_a_constructor_builds_a_network_or_says_what_it_expected(examples, try_out):
    def check(arguments):
        try:
            net = ConvNeXt(**arguments)
        except (TypeError, ValueError) as error:
            assert re.match(r'expected .* got ', str(error), re.DOTALL), error
            return
        side = net.out_strides[-1]
        maps = net(torch.rand(2, net.in_chans, side, 2 * side))
        channels_and_strides = zip(net.out_channels, net.out_strides, strict=True)
        sizes = [(2, c, side // s, 2 * side // s) for c, s in channels_and_strides]
        assert [map_.shape for map_ in maps] == sizes
        if maps[-1].requires_grad:
            maps[-1].sum().backward()
        assert repr(net)

    try_out(check, constructor_arguments(), examples)


@FEW_OR_MANY
def test_a_network_takes_an_input_or_says_what_it_expected(examples, try_out, miniature):
    backbone = ConvNeXt(miniature).eval()
    nets = [backbone, optimize_for_inference(backbone), ConvNeXtClassifier(miniature).eval()]

    def check(case):
        net, x, autocast = case
        dtypes = AUTOCAST_TYPES if autocast else (torch.float32,)
        right_type = isinstance(x, torch.Tensor) and x.dtype in dtypes
        fits = right_type and x.dim() == 4 and x.shape[1] == 3 and min(x.shape[2:]) >= 32
        context = torch.autocast('cpu', dtype=torch.bfloat16) if autocast else nullcontext()
        with context, torch.no_grad():
            if not fits:
                with pytest.raises(ValueError if right_type else TypeError, match='expected .*got'):
                    net(x)
                return
            maps = net(x)
        if isinstance(net, ConvNeXtClassifier):
            assert maps.shape == (len(x), 1000)
            return
        for map_, channels, stride in zip(maps, net.out_channels, net.out_strides, strict=True):
            assert map_.shape == (len(x), channels, x.shape[2] // stride, x.shape[3] // stride)
            assert map_.is_contiguous() and map_.isfinite().all()

    try_out(check, st.tuples(st.sampled_from(nets), inputs(), st.booleans()), examples)


# --- config overrides -----------------------------------------------------------------------


@pytest.fixture
def config(request, tmp_path, monkeypatch):
    """A small config, whole in one file, and the path of that file."""
    leave_configs_unformatted(monkeypatch)
    cfg = miniature(request.param, tmp_path / 'work', length=2)
    path = tmp_path / 'config.py'
    cfg.dump(path)
    return cfg, path


def parser():
    parser = runner_parser('')
    add_training_flags(parser)
    return parser


def is_documented(error: ValueError | FileNotFoundError) -> bool:
    """Whether an error is ours, or one of other packages and not the problem of our code."""
    cause = error.__cause__
    if cause is None or isinstance(error, FileNotFoundError):
        return True
    place = traceback.extract_tb(cause.__traceback__)[-1]
    return not place.filename.startswith(PACKAGE) or str(cause).startswith('expected ')


@FEW_OR_MANY
@pytest.mark.parametrize('config', ['det', 'seg'], indirect=True)
def test_overrides_make_a_model_or_one_sentence(examples, config, try_out, tmp_path):
    cfg, path = config

    def check(case):
        options, flags = case
        args = parser().parse_args([str(path), f'--work-dir={tmp_path}', *flags])
        try:
            cfg = load_run_config(args.config, options, args.launcher, args.work_dir)
            with config_errors():
                set_training_flags(cfg, args)
                set_records(cfg)
                backbone_starts_from_scratch(cfg)
            build_model(cfg, 'missing.pth', 'cpu')
        except (FileNotFoundError, ValueError) as error:
            assert is_one_line(error) and is_documented(error)
        else:
            pytest.fail('loaded weights that are not there')

    try_out(check, st.tuples(overrides(cfg), TRAINING_FLAGS), examples)


@FEW_OR_MANY
@pytest.mark.parametrize('config', ['seg'], indirect=True)
def test_overrides_as_they_are_typed(examples, config, try_out, capsys):
    _, path = config

    def check(words):
        try:
            args = parser().parse_args([str(path), '--cfg-options', *words])
        except SystemExit as error:
            assert error.code == 2 and 'usage: ' in capsys.readouterr().err
            return
        try:
            load_run_config(args.config, args.cfg_options)
        except ValueError as error:
            assert is_one_line(error) and is_documented(error)

    try_out(check, override_texts(), examples)


@FEW_OR_MANY
def test_settings_of_layer_decay(examples, try_out, miniature):
    model = nn.Module()
    model.backbone = ConvNeXt(miniature)

    def check(cfg):
        try:
            with config_errors():
                build_optim_wrapper(model, dict(cfg, constructor='ConvNeXtLayerDecayConstructor'))
        except ValueError as error:
            assert is_documented(error)

    try_out(check, decay_settings(), examples)


# --- weight files ---------------------------------------------------------------------------


@pytest.fixture
def network():
    return ConvNeXt(depths=(1, 1), dims=(2, 4), out_indices=(0, 1))


def loads_or_says_why(network: ConvNeXt, path: Path, **options) -> None:
    """A network gets weights, or stays as it was and the error says why."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    try:
        load_weights(network, path, **options)
    except ValueError as error:
        assert is_one_line(error)
        after = network.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)
    else:
        finite = all(tensor.isfinite().all() for tensor in network.state_dict().values())
        assert finite or not options.get('strict', True)
    network.load_state_dict(before)


@FEW_OR_MANY
def test_a_damaged_file_is_loaded_or_refused(examples, try_out, network, tmp_path):
    state = network.state_dict()
    training = dict(
        state_dict=state,
        meta=dict(epoch=1, seed=0),
        message_hub=dict(loss=HistoryBuffer([0.5], [1])),
        scale=np.float64(1),
    )
    write_safetensors(tmp_path / 'plain', state)
    write_safetensors(tmp_path / 'published', state, dict(dataset_meta=dict(classes=['a'])))
    files = {name: (tmp_path / name).read_bytes() for name in ('plain', 'published')}
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(training, file, _use_new_zipfile_serialization=zipped)
        files[f'{zipped=}'] = file.getvalue()
    path = tmp_path / 'weights.pth'

    def check(content):
        path.write_bytes(content)
        loads_or_says_why(network, path)

    try_out(check, mutations(files), examples)


@FEW_OR_MANY
def test_a_forged_pickle_runs_nothing(examples, try_out, network, tmp_path):
    path, executed = tmp_path / 'weights.pth', tmp_path / 'executed'

    def check(content):
        path.write_bytes(content)
        loads_or_says_why(network, path)
        assert not executed.exists()

    try_out(check, forged(f'touch {executed}'), examples)


@FEW_OR_MANY
def test_what_does_not_fit_is_said_or_left_out(examples, try_out, network, tmp_path):
    path = tmp_path / 'weights.pth'
    more_channels = ConvNeXt(depths=(1, 1), dims=(2, 4), out_indices=(0, 1), in_chans=4)

    def check(case):
        net, content, options = case
        torch.save(content, path)
        loads_or_says_why(net, path, **options)

    options = st.fixed_dictionaries(
        {},
        optional=dict(
            strict=st.booleans(), ema=st.booleans(), prefix=st.sampled_from(['', 'module.'])
        ),
    )
    nets = st.sampled_from([network, more_channels])
    try_out(check, st.tuples(nets, edited(network.state_dict()), options), examples)


@FEW_OR_MANY
def test_files_that_are_no_predictions(examples, try_out, tmp_path):
    path = str(tmp_path / 'predictions.pt')

    class Dataset:
        metainfo = dict(classes=('cat', 'dog'))

        def __len__(self):
            return 1

        def get_data_info(self, i):
            return dict(img_path='images/a.jpg')

    def check(content):
        Path(path).write_bytes(content)
        try:
            check_predictions(path, read_predictions(path), Dataset())
        except ValueError as error:
            assert is_one_line(error)

    try_out(check, prediction_files(), examples)


# --- annotation files and plain configs -----------------------------------------------------


@pytest.fixture
def annotated(tmp_path):
    """A detection dataset of two images, what its annotation file holds, and where that is."""
    for number in (1, 2):
        Image.new('RGB', (40, 30)).save(tmp_path / f'{number}.png')
    polygon = [[5, 5, 20, 5, 20, 20, 5, 20]]
    runs = dict(size=[30, 40], counts=[600, 100, 500])
    encoded = mask.encode(np.asfortranarray(np.eye(30, 40, dtype=np.uint8)))
    encoded['counts'] = encoded['counts'].decode()
    content = dict(
        images=[dict(id=i, file_name=f'{i}.png', width=40, height=30) for i in (1, 2)],
        categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
        annotations=[
            dict(
                id=i,
                image_id=1 + i % 2,
                category_id=1 + i % 2,
                bbox=[5, 5, 15, 15],
                area=225,
                iscrowd=int(isinstance(segmentation, dict)),
                segmentation=segmentation,
            )
            for i, segmentation in enumerate((polygon, runs, encoded, polygon), 1)
        ],
    )
    init_default_scope('mmdet')
    dataset = dict(
        type='CocoDataset',
        data_root=f'{tmp_path}/',
        ann_file='annotations.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=('cat', 'dog')),
        filter_cfg=dict(filter_empty_gt=True, min_size=8),
        pipeline=[dict(type='LoadAnnotations', with_bbox=True, with_mask=True)],
    )
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    ((source,), findings) = build_sources(cfg, ['train'])
    assert findings == []
    return source, content, tmp_path / 'annotations.json'


@FEW_OR_MANY
def test_what_is_wrong_in_an_annotation_file_is_found(examples, annotated, try_out):
    source, content, path = annotated

    def check(case):
        text, thorough = case
        path.write_bytes(text)
        findings, _ = check_coco(source, thorough)
        assert all(isinstance(finding, Finding) for finding in findings)
        assert all(str(finding).isprintable() for finding in findings), 'one line each'
        if text == json.dumps(content).encode():
            assert findings == []

    try_out(check, st.tuples(json_files(content), st.booleans()), examples)


@FEW_OR_MANY
@pytest.mark.parametrize('config', ['seg'], indirect=True)
def test_a_config_of_plain_data_is_read_or_refused(examples, config, try_out, tmp_path):
    cfg, _ = config
    path = tmp_path / 'plain.json'

    def check(text):
        path.write_bytes(text)
        try:
            read_plain_config(path)
        except ValueError as error:
            assert is_one_line(error)

    try_out(check, json_files(plain_config(cfg)), examples)
