"""Each format runs for images of any size, and computes the same."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.heads import segmentor
from torch import nn

from convnext_backbones.exporting import formats, parity
from convnext_backbones.exporting.folder import READ_ME
from convnext_backbones.exporting.graphs import make_graph
from convnext_backbones.inference.exported import FILES, ExportedModel

# What mmcv and mmseg advise about the models here is not what is tested.
pytestmark = [
    pytest.mark.filterwarnings('ignore::UserWarning:mm(cv|seg)'),
    pytest.mark.usefixtures('registered'),
]
SIZES = [(1, 64, 64), (3, 75, 130), (1, 200, 64)]
SMALL = [(1, 32, 32), (2, 33, 95)]  # not for programs of torch.export


@pytest.mark.parametrize(
    ('format_', 'part'),
    [('onnx', 'model'), ('onnx', 'backbone'), ('openvino', 'model'), ('torch', 'model')],
)
def test_any_number_and_size_of_images(original, exported, format_, part):
    if format_ == 'openvino':
        pytest.importorskip('openvino')
    model = ExportedModel(exported(format_, part))
    generator = np.random.default_rng(1)
    sizes = SIZES if format_ == 'torch' else SIZES + SMALL
    images = [generator.integers(0, 256, (n, 3, h, w)) for n, h, w in sizes]
    found = parity.measure(make_graph(original, part), model, images)
    assert found.difference <= parity.TOLERANCE
    assert found.labels == (0 if part == 'model' else None)


def test_onnx_needs_standard_operators_only(exported):
    onnx = pytest.importorskip('onnx')
    graph = onnx.load(exported() / FILES['onnx']).graph
    assert {node.domain for node in graph.node} <= {'', 'ai.onnx'}
    names = [size.dim_param for size in graph.input[0].type.tensor_type.shape.dim]
    assert names == ['batch', '', 'height', 'width']


def test_unknown_formats_and_missing_packages(monkeypatch):
    with pytest.raises(ValueError, match='one of the formats onnx, openvino, torch, got .tflite'):
        formats.check_packages('tflite')
    monkeypatch.setitem(formats.PACKAGES, 'onnx', ('no_such_package',))
    with pytest.raises(
        ValueError, match=r'expected no_such_package .* \[export\]'.replace(' ', '.')
    ):
        formats.check_packages('onnx')


class DependsOnSize(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[2] > 3 * int(x.sum()) else x


def test_layers_that_cannot_be_traced(tmp_path):
    model = segmentor().eval()
    model.neck = DependsOnSize()
    with pytest.raises(ValueError, match='the model can'):
        formats.write(make_graph(model, 'model'), 3, 'torch', tmp_path)
    assert not any(tmp_path.iterdir())


def test_tracing_leaves_the_log_as_it_was(original):
    import logging

    before = logging.root.manager.disable
    formats.trace(make_graph(original, 'backbone'), 3)
    assert logging.root.manager.disable == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ('format_', 'part'),
    [('onnx', 'model'), ('onnx', 'backbone'), ('openvino', 'model'), ('torch', 'model')],
)
def test_the_code_of_the_readme_repeats_the_example(exported, format_, part):
    """In a process that knows neither this package nor its sources."""
    if format_ == 'openvino':
        pytest.importorskip('openvino')
    folder = exported(format_, part)
    (code,) = re.findall(r'```python\n(.*?)```', (folder / READ_ME).read_text(), re.DOTALL)
    assert 'convnext' not in code and len(code.splitlines()) <= 10
    done = subprocess.run(
        [sys.executable, '-I', '-c', code], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) <= 1e-5
