"""Detectors and segmentors are timed from pixels or from a file, and all compute the same."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from convnext_backbones.benchmark.case import INPUT, REFERENCE, WEIGHTS, Case
from convnext_backbones.benchmark.contenders import list_contenders, prepare
from convnext_backbones.benchmark.model_inputs import IMAGE, input_reader
from convnext_backbones.benchmark.whole_models import case_config, read_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    name: str(ROOT / f'configs/sample/{name}_convnext_sample.py')
    for name in ('mask_rcnn', 'upernet')
}
SHAPE = (64, 96)
# Transformers of an encoder layer and two decoder layers; the backbone has no map of stride 4.
TRANSFORMER = """
_base_ = {base!r}
from convnext_backbones.config import head_settings
custom_imports = dict(imports=['convnext_backbones'], allow_failed_imports=False)
arch = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
model, optim_wrapper = head_settings({base!r}, arch)
model['_delete_'] = optim_wrapper['_delete_'] = True
model['encoder']['num_layers'], model['decoder']['num_layers'] = 1, 2
"""
# The queries of the first are positions at strides of 8, 16, 32 and 64, which are fewer than 900;
# those of the second are parameters, and its decoder layers share their heads.
TRANSFORMERS = {
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py': 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2,
    'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py': 300,
}


def arch_of(config):
    return dict(read_config(config).model.backbone.arch)


@pytest.fixture(scope='module', params=CONFIGS)
def from_file(request, tmp_path_factory):
    """A case with its image in a file, and its folder."""
    config = CONFIGS[request.param]
    case = Case(arch_of(config), SHAPE, config=config, from_file=True)
    folder = tmp_path_factory.mktemp('case')
    prepare(case, folder)
    return case, folder


@pytest.mark.parametrize('name', ['mmpretrain', 'ours', 'ours optimized'])
def test_a_prediction_from_a_file_reads_it_every_time(from_file, name):
    case, folder = from_file
    assert cv2.imread(str(folder / IMAGE)).shape == (*SHAPE, 3)
    made = list_contenders(case, folder)[name].build()
    (sample,) = made.run()
    if 'mask_rcnn' in case.config:
        assert len(sample.pred_instances) == made.measures['detections']() > 0
        assert sample.pred_instances.masks.shape[1:] == SHAPE
    else:
        assert sample.pred_sem_seg.data.shape == (1, *SHAPE)
    assert made.measures['difference']() < 1e-4
    content = (folder / IMAGE).read_bytes()
    try:
        cv2.imwrite(str(folder / IMAGE), np.zeros((*SHAPE, 3), np.uint8))
        assert made.measures['difference']() > 0.01
    finally:
        (folder / IMAGE).write_bytes(content)


def test_the_image_in_a_file_is_the_same_every_time_and_no_easier_than_a_photo(from_file, tmp_path):
    case, folder = from_file
    prepare(case, tmp_path)
    content = (folder / IMAGE).read_bytes()
    assert (tmp_path / IMAGE).read_bytes() == content
    assert 1 < 8 * len(content) / (SHAPE[0] * SHAPE[1]) < 8  # bits per pixel


def test_transforms_neither_scale_nor_pad(from_file):
    case, folder = from_file
    cfg = case_config(case)
    cfg.test_dataloader.dataset.pipeline.insert(2, dict(type='Pad', size=(640, 640)))
    data = input_reader(case, cfg, folder)()
    assert data['inputs'][0].shape == (3, *SHAPE) and data['inputs'][0].dtype == torch.uint8
    meta = data['data_samples'][0]
    assert meta.ori_shape == meta.img_shape == SHAPE and meta.scale_factor == (1.0, 1.0)
    assert cfg.test_dataloader.dataset.pipeline[2]['type'] == 'Pad'  # the argument is as it was


def test_unsuitable_transforms_are_refused(from_file):
    case, folder = from_file
    cfg = case_config(case)
    cfg.test_dataloader.dataset.pipeline.insert(2, dict(type='CenterCrop', crop_size=(32, 32)))
    with pytest.raises(ValueError, match='keep the size of the image, 64 x 96, got 32 x 32'):
        input_reader(case, cfg, folder)
    cfg.pop('test_dataloader')
    with pytest.raises(ValueError, match='for --from-file, found none'):
        input_reader(case, cfg, folder)


@pytest.fixture(scope='module', params=TRANSFORMERS, ids=['dino', 'deformable_detr'])
def transformer(request, tmp_path_factory):
    """A case of a detection transformer, its folder, and how many queries it has."""
    folder = tmp_path_factory.mktemp('transformer')
    config = folder / 'transformer.py'
    config.write_text(TRANSFORMER.format(base=request.param))
    case = Case(arch_of(str(config)), SHAPE, config=str(config))
    assert prepare(case, folder) > 0
    return case, folder, TRANSFORMERS[request.param]


@pytest.mark.parametrize('name', ['mmpretrain', 'ours', 'ours optimized'])
def test_detection_transformers_are_timed(transformer, name):
    case, folder, queries = transformer
    made = list_contenders(case, folder)[name].build()
    (sample,) = made.run()
    assert case_config(case).model.num_queries == queries
    assert len(sample.pred_instances) == made.measures['detections']() > 0
    assert made.measures['difference']() < 1e-4


def test_other_weights_of_a_transformer_are_found_out(transformer, tmp_path):
    case, folder, _ = transformer
    state = load_file(folder / WEIGHTS)
    for name in (INPUT, REFERENCE):
        (tmp_path / name).symlink_to(folder / name)
    state['encoder.layers.0.self_attn.output_proj.bias'][0] += 2
    save_file(state, tmp_path / WEIGHTS)
    made = list_contenders(case, tmp_path)['ours'].build()
    assert made.measures['difference']() > 0.01


def test_large_images_have_places_for_all_queries(transformer):
    case, _, queries = transformer
    large = Case(case.arch, (800, 1280), config=case.config)
    written = read_config(case.config).model.num_queries
    assert case_config(large).model.num_queries == written >= queries


def test_an_exported_model_finds_the_same(from_file):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    case, folder = from_file
    contenders = list_contenders(case, folder)
    assert contenders['ours onnxruntime'].optional  # the export takes its time
    found, expected = (contenders[name].build() for name in ('ours onnxruntime', 'ours'))
    (one,), (other,) = found.run(), expected.run()
    if 'mask_rcnn' in case.config:
        assert len(one.pred_instances) == len(other.pred_instances) > 0
    else:
        assert found.measures['difference']() < 1e-4
