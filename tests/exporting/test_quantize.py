"""Smaller models still predict, and say what they lose."""

import numpy as np
import pytest
from support.exported import named
from support.heads import detector, segmentor

from convnext_backbones.exporting import quantize
from convnext_backbones.exporting.folder import Wanted, export
from convnext_backbones.inference.exported import FILES, ExportedModel

# What mmcv and mmseg advise about the models here is not what is tested.
pytestmark = [
    pytest.mark.filterwarnings('ignore::UserWarning:mm(cv|seg)'),
    pytest.mark.usefixtures('registered'),
]


def pictures(count=3):
    """Smooth images, each of shape (1, 3, 64, 96)."""
    y, x = np.mgrid[:64, :96]
    waves = [np.sin(x / (5 + i)) * np.cos(y / (4 + i)) for i in range(3 * count)]
    return list((127 + 90 * np.stack(waves)).reshape(count, 1, 3, 64, 96).astype(np.float32))


@pytest.mark.parametrize('precision', ['fp16', 'int8'])
def test_smaller_models(tmp_path, exported, precision):
    onnx = pytest.importorskip('onnx')
    images = pictures() if precision == 'int8' else ()
    model = named(segmentor())
    found = export(model, tmp_path / 'small', Wanted(precision=precision, images=images))
    assert 0 < found.difference < 0.2 and found.labels < 0.2
    small = ExportedModel(tmp_path / 'small')
    assert small.record['precision'] == precision
    assert small.record['parity'] == vars(found)
    assert small(pictures()[0])['logits'].dtype == np.float32
    nodes = onnx.load(tmp_path / 'small' / FILES['onnx']).graph
    onnx.checker.check_model(tmp_path / 'small' / FILES['onnx'], full_check=precision == 'fp16')
    kinds = {tensor.data_type for tensor in nodes.initializer}
    wanted = onnx.TensorProto.FLOAT16 if precision == 'fp16' else onnx.TensorProto.INT8
    assert wanted in kinds


def test_without_images_or_layers(tmp_path):
    onnx = pytest.importorskip('onnx')
    with pytest.raises(ValueError, match='expected images for int8, got none'):
        Wanted(precision='int8').check()
    with pytest.raises(ValueError, match='expected images for the calibration'):
        quantize.quantize(tmp_path / 'model.onnx', [])
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node('Relu', ['images'], ['out'])
    sizes = ['n', 3, 'h', 'w']
    graph = onnx.helper.make_graph(
        [node], 'g', [value('images', 1, sizes)], [value('out', 1, sizes)]
    )
    opset = onnx.helper.make_opsetid('', 20)
    path = tmp_path / 'model.onnx'
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    with pytest.raises(ValueError, match='pointwise convolutions to quantize, found none'):
        quantize.quantize(path, pictures(1))


def test_boxes_need_fp32(tmp_path):
    with pytest.raises(ValueError, match='expected fp32 or int8 for a whole detector, got fp16'):
        export(detector(), tmp_path / 'out', Wanted(precision='fp16'))
    assert not any(tmp_path.iterdir())


def test_precisions_are_those_of_onnx():
    with pytest.raises(ValueError, match='--format onnx with --precision fp16, got .torch'):
        Wanted('torch', precision='fp16').check()
    with pytest.raises(ValueError, match='precision of fp32, fp16, int8, got .int4'):
        Wanted(precision='int4').check()
