"""How OpenMMLab's packages find the backbone, each time in a process that never heard of it."""

import copy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch.testing import assert_close

from convnext_backbones import ConvNeXt

CHECKOUT = Path(__file__).resolve().parents[2]

IMPORTS = "custom_imports = dict(imports=['convnext_backbones'], allow_failed_imports=False)\n"

# What a user writes over mmdet's own files.
DETECTOR = (
    """
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
"""
    + IMPORTS
    + """
model = dict(
    backbone=dict(_delete_=True, type='ConvNeXt', arch=dict(depths=[1] * 4, dims=[8, 16, 24, 32])),
    neck=dict(in_channels=[8, 16, 24, 32]),
    test_cfg=dict(rpn=dict(max_per_img=10), rcnn=dict(score_thr=0.0, max_per_img=5)),
)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
test_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=pipeline))
visualizer = dict(type='DetLocalVisualizer')
"""
)

# `mmseg::` finds this file in OpenMMLab's stack only, in a process that has not the tools' mending.
MMSEG_BASE = Path(find_spec('mmseg').origin).parent / '.mim/configs/_base_/models/upernet_r50.py'
SEGMENTOR = (
    f"""
_base_ = '{MMSEG_BASE}'
"""
    + IMPORTS
    + """
model = dict(
    pretrained=None,
    backbone=dict(_delete_=True, type='ConvNeXt', arch=dict(depths=[1] * 4, dims=[8, 16, 24, 32])),
    decode_head=dict(in_channels=[8, 16, 24, 32], channels=16, num_classes=3),
    auxiliary_head=dict(in_channels=24, channels=16, num_classes=3),
)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=pipeline))
visualizer = dict(type='SegLocalVisualizer')
"""
)

# In both builds, the model's scope is a child registry and the backbone is the root's.
BUILD = """
    import sys

    import torch
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmengine.runner import save_checkpoint

    cfg = Config.fromfile('config.py')
    init_default_scope({scope!r})
    from {scope}.registry import MODELS

    model = MODELS.build(cfg.model)
    backbone = model.backbone
    assert type(backbone) is sys.modules['convnext_backbones'].ConvNeXt, type(backbone)
    assert type(backbone) is MODELS.get('ConvNeXt')
    meta = dict(dataset_meta=dict(classes=list({classes!r}), palette={palette!r}))
    save_checkpoint(dict(state_dict=model.state_dict(), meta=meta), 'weights.pth')
    cfg.dump('dumped.py')
    print('built', sum(p.numel() for p in backbone.parameters()))
"""


def test_root_registry_and_nothing_but_torch_and_mmengine(run_python, tmp_path):
    (tmp_path / 'config.py').write_text(IMPORTS + "model = dict(type='ConvNeXt', arch='atto')\n")
    out = run_python(
        """
        import sys
        from mmengine.config import Config
        from mmengine.registry import MODELS

        assert MODELS.get('ConvNeXt') is None
        net = MODELS.build(Config.fromfile('config.py').model)
        assert type(net) is sys.modules['convnext_backbones'].ConvNeXt
        print(sorted({'mmcv', 'mmdet', 'mmseg'} & set(sys.modules)))
        """,
        tmp_path,
    )
    assert out.strip() == '[]'


def test_detector_from_a_config_then_from_its_dump(run_python, tmp_path):
    (tmp_path / 'config.py').write_text(DETECTOR)
    # 80 classes, as mmdet's base has them.
    names = [f'class{i}' for i in range(80)]
    palette = [(i, i, i) for i in range(80)]
    out = run_python(BUILD.format(scope='mmdet', classes=names, palette=palette), tmp_path)
    assert out.splitlines()[-1].startswith('built')
    assert 'mmdet::' not in (tmp_path / 'dumped.py').read_text()  # it stands alone
    run_python(
        """
        import sys
        import numpy as np
        from mmengine.config import Config

        assert 'convnext_backbones' not in sys.modules
        imports = Config.fromfile('dumped.py', import_custom_modules=False).custom_imports.imports
        assert 'convnext_backbones' in imports
        # Where mmcv is not compiled, this imports the package, for its operators.
        from mmdet.apis import DetInferencer

        inferencer = DetInferencer('dumped.py', 'weights.pth', device='cpu', show_progress=False)
        assert type(inferencer.model.backbone) is sys.modules['convnext_backbones'].ConvNeXt
        image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        (prediction,) = inferencer(image, no_save_vis=True)['predictions']
        assert len(prediction['bboxes']) == len(prediction['masks']) == 5, prediction
        """,
        tmp_path,
    )


def test_segmentor_from_a_config_then_from_its_dump(run_python, tmp_path):
    (tmp_path / 'config.py').write_text(SEGMENTOR)
    palette = [[0, 0, 0], [255, 0, 0], [0, 255, 0]]
    out = run_python(BUILD.format(scope='mmseg', classes='abc', palette=palette), tmp_path)
    assert out.splitlines()[-1].startswith('built')
    run_python(
        """
        import sys
        import numpy as np
        from mmengine.config import Config

        assert 'convnext_backbones' not in sys.modules
        imports = Config.fromfile('dumped.py', import_custom_modules=False).custom_imports.imports
        assert 'convnext_backbones' in imports
        # Where mmcv is not compiled, this imports the package, for its operators.
        from mmseg.apis import MMSegInferencer

        inferencer = MMSegInferencer('dumped.py', 'weights.pth', device='cpu')
        assert type(inferencer.model.backbone) is sys.modules['convnext_backbones'].ConvNeXt
        image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        prediction = inferencer(image, show=False)['predictions']
        assert prediction.shape == (64, 96)
        assert set(np.unique(prediction)) <= {0, 1, 2}
        """,
        tmp_path,
    )


@pytest.fixture
def detector(miniature):
    """A small Mask R-CNN with random weights that still tell boxes apart."""
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    config = Config.fromfile(CHECKOUT / 'configs/_base_/models/mask_rcnn.py').model
    config.backbone = dict(type='ConvNeXt', arch=miniature, layer_scale_init_value=1.0)
    config.neck.update(in_channels=list(miniature['dims']), out_channels=16)
    config.rpn_head.update(in_channels=16, feat_channels=16)
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        config.roi_head[name].out_channels = 16
    config.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=3)
    config.roi_head.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=3)
    # Few candidates: the more there are, the sooner two scores differ by rounding only.
    config.test_cfg.rpn.update(nms_pre=16, max_per_img=16)
    config.test_cfg.rcnn.update(score_thr=0.0, max_per_img=8)
    config['_scope_'] = 'mmdet'  # for this build; a default scope would outlive the test
    model = MODELS.build(config)
    assert isinstance(model.backbone, ConvNeXt)
    with torch.no_grad():
        # Scores far apart, but not so far that the sigmoid makes them equal.
        model.rpn_head.rpn_cls.weight.normal_(std=0.15)
        model.roi_head.bbox_head.fc_cls.weight.normal_()
    return model.eval()


def test_detector_is_equal_in_both_layouts(detector):
    """mmcv's RoIAlign ignores strides: maps that are not contiguous give it wrong values."""
    from mmdet.structures import DetDataSample

    image = torch.randn(1, 3, 96, 128)
    sample = DetDataSample(
        metainfo=dict(img_shape=(96, 128), ori_shape=(96, 128), scale_factor=(1.0, 1.0))
    )
    results = {}
    for channels_last in (True, False):
        detector.backbone.channels_last = channels_last
        with torch.no_grad():
            features = detector.extract_feat(image)
            (proposals,) = detector.rpn_head.predict(features, [copy.deepcopy(sample)])
            (detections,) = detector.predict(image, [copy.deepcopy(sample)], rescale=False)
        results[channels_last] = features, proposals, detections.pred_instances

    (features, proposals, detections), expected = results[True], results[False]
    assert_close(features, expected[0], atol=1e-5, rtol=1e-5)
    assert len(proposals) == 16
    assert_close(proposals.bboxes, expected[1].bboxes, atol=1e-3, rtol=1e-5)
    assert_close(proposals.scores, expected[1].scores, atol=1e-5, rtol=1e-5)
    assert len(detections) == 8
    assert_close(detections.bboxes, expected[2].bboxes, atol=1e-3, rtol=1e-5)
    assert_close(detections.scores, expected[2].scores, atol=1e-5, rtol=1e-5)
    assert torch.equal(detections.labels, expected[2].labels)
    # A pixel whose probability is within rounding of the threshold may fall on either side.
    assert (detections.masks != expected[2].masks).float().mean() < 1e-4
