"""A ConvNeXt takes the place of other backbones; necks, heads and the optimizer follow."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from convnext_backbones.benchmark.peers import import_mmpretrain
from convnext_backbones.config import exchange as exchange_module
from convnext_backbones.config import with_convnext
from convnext_backbones.config.exchange import exchange
from convnext_backbones.config.toolbox_configs import read_toolbox_config
from convnext_backbones.engine.build import load_trained

DIMS = [16, 32, 64, 128]
ARCH = dict(depths=[1, 1, 1, 1], dims=DIMS)


def exchanged(name: str, arch=ARCH, **options) -> Config:
    cfg, _ = exchange(read_toolbox_config(name), arch, **options)
    return cfg


# --- maps -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'stages', 'start'),
    [
        ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco', (0, 1, 2, 3), None),
        ('mmdet::retinanet/retinanet_r50_fpn_1x_coco', (1, 2, 3), 0),
        ('mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco', (1, 2, 3), 0),
        ('mmdet::efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco', (1, 2, 3), 0),
        ('mmdet::rtmdet/rtmdet_l_8xb32-300e_coco', (1, 2, 3), None),
        ('mmdet::yolox/yolox_s_8xb8-300e_coco', (1, 2, 3), None),
        ('mmdet::dino/dino-4scale_r50_8xb2-12e_coco', (1, 2, 3), None),
        ('mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco', (0, 1, 2, 3), None),
        ('mmdet::detr/detr_r50_8xb2-150e_coco', (3,), None),
        ('mmdet::hrnet/faster-rcnn_hrnetv2p-w18-1x_coco', (0, 1, 2, 3), None),
        ('mmdet::libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco', (0, 1, 2, 3), None),
    ],
)
def test_a_neck_gets_the_maps_that_it_reads(name, stages, start):
    cfg = exchanged(name)
    neck = cfg.model.neck[0] if isinstance(cfg.model.neck, list) else cfg.model.neck
    assert cfg.model.backbone.type == 'ConvNeXt'
    assert cfg.model.backbone.out_indices == stages
    assert list(neck.in_channels) == [DIMS[i] for i in stages]
    assert neck.get('start_level') == start


def test_necks_that_read_the_last_map_or_begin_with_it():
    assert exchanged('mmdet::yolof/yolof_r50-c5_8xb8-1x_coco').model.neck.in_channels == 128
    cfg = exchanged('mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco')
    assert cfg.model.backbone.out_indices == (3,)
    neck = exchanged('mmdet::yolo/yolov3_d53_8xb8-320-273e_coco').model.neck
    assert neck.in_channels == [128, 64, 32]
    model = exchanged('mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco').model
    assert model.neck.in_channels == (64, 128)
    assert model.neck.out_channels == model.bbox_head.in_channels == (64, 128, 512, 256, 256, 128)


def test_a_neck_that_asks_for_an_unread_map_gets_it_and_training_allows_it():
    cfg, notes = exchange(
        read_toolbox_config('mmdet::nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco')
    )
    assert cfg.model.backbone.out_indices == (0, 1, 2, 3) and cfg.find_unused_parameters
    assert 'find_unused_parameters is set' in '; '.join(notes)


def test_heads_of_segmentors_get_the_maps_that_they_read():
    model = exchanged('mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024').model
    assert model.backbone.out_indices == (2, 3)
    assert (model.decode_head.in_index, model.decode_head.in_channels) == (1, 128)
    assert (model.auxiliary_head.in_index, model.auxiliary_head.in_channels) == (0, 64)
    model = exchanged(
        'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024'
    ).model
    assert model.backbone.out_indices == (0, 2, 3)
    assert (model.decode_head.in_index, model.decode_head.c1_in_channels) == (2, 16)
    # It takes three maps, and computes with the last.
    model = exchanged('mmseg::encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024').model
    assert model.backbone.out_indices == (2, 3)
    assert (model.decode_head.in_index, model.decode_head.in_channels) == ((1,), [128])
    model = exchanged('mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512').model
    assert model.backbone.out_indices == (1, 2, 3)
    assert list(model.decode_head.in_index) == [0, 1, 2]
    model = exchanged('mmseg::knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512').model
    assert model.decode_head.kernel_generate_head.in_channels == DIMS
    assert 'pretrained' not in model


def test_a_neck_that_passes_maps_on_gives_their_channels_to_the_heads():
    model = exchanged('mmseg::fastfcn/fastfcn_r50-d32_jpu_enc_4xb2-80k_cityscapes-512x1024').model
    assert model.neck.in_channels == (32, 64, 128)
    assert model.decode_head.in_channels == [32, 64, 2048]
    assert model.auxiliary_head.in_channels == 64


def test_models_inside_of_others_are_found_and_teachers_stay():
    cfg = exchanged('mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco')
    assert cfg.model.detector.backbone.type == 'ConvNeXt'
    assert cfg.model.detector.neck.in_channels == DIMS
    inner = cfg.model.detector.data_preprocessor
    assert inner.mean == cfg.model.data_preprocessor.data_preprocessor.mean
    assert inner.mean[0] == pytest.approx(123.675) and inner.bgr_to_rgb
    cfg = exchanged('mmdet::lad/lad_r50-paa-r101_fpn_2xb8_coco_1x')
    assert cfg.model.teacher_backbone.type == 'ResNet'


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('mmdet::cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco', 'made for each other'),
        ('mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco', 'last stage of the ResNet'),
        ('mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco', 'dilated ResNet: the anchors'),
        ('mmdet::glip/glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune_coco', 'with texts'),
        ('mmdet::detectors/cascade-rcnn_r50-rfp_1x_coco', 'RFP: its neck runs the backbone again'),
        ('mmdet::rtmdet/rtmdet_x_p6_4xb8-300e_coco', 'its maps have strides 4, 8, 16 and 32'),
        ('mmdet::ssd/ssd300_coco', 'extra layers are those of a VGG'),
        ('mmseg::vit/vit_deit-b16_mln_upernet_8xb2-160k_ade20k-512x512', 'one resolution'),
        ('mmseg::unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024', 'strides up to 1'),
        ('mmseg::ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024', 'take ocrnet_hr18'),
    ],
)
def test_what_takes_no_pyramid_is_refused_with_the_reason(name, words):
    with pytest.raises(ValueError, match=words):
        exchanged(name)


def test_maps_of_an_unknown_backbone_are_named_by_the_user():
    cfg = read_toolbox_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco')
    cfg.model.backbone = dict(type='MyNet')
    with pytest.raises(ValueError, match='place of MyNet, whose maps are not known; give out_ind'):
        with_convnext(cfg)
    model = with_convnext(cfg, ARCH, out_indices=(0, 1, 2, 3)).model
    assert model.backbone.out_indices == (1, 2, 3)  # the neck begins with the second
    with pytest.raises(ValueError, match='an entry for each of 3 maps'):
        with_convnext(cfg, ARCH, out_indices=(1, 2, 3))
    with pytest.raises(ValueError, match='expected a config with a model'):
        with_convnext(Config(dict(default_scope='mmdet')))
    with pytest.raises(ValueError, match='expected a model with a backbone, found none'):
        with_convnext(Config(dict(model=dict(type='MyDetector'))))


# --- training -------------------------------------------------------------------------------


def test_sgd_becomes_the_recipe_and_the_schedule_keeps_its_proportions():
    old = read_toolbox_config('mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024')
    before = old.pretty_text
    cfg = with_convnext(old, weights='convnext_tiny_1k_224')
    assert old.pretty_text == before
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, 0.05)
    assert cfg.optim_wrapper.constructor == 'ConvNeXtLayerDecayConstructor'
    assert cfg.optim_wrapper.paramwise_cfg == dict(decay_rate=0.9, decay_type='stage_wise')
    assert old.param_scheduler[0].eta_min / old.optim_wrapper.optimizer.lr == pytest.approx(0.01)
    assert cfg.param_scheduler[0].eta_min == pytest.approx(1e-6)
    assert cfg.custom_imports.imports == ['convnext_backbones']


def test_random_weights_learn_at_one_rate():
    old = read_toolbox_config('mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024')
    assert with_convnext(old, 'tiny').optim_wrapper.paramwise_cfg.decay_rate == 1


def test_adamw_of_the_config_stays_and_keys_of_the_heads_with_it():
    cfg = exchanged('mmdet::mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco')
    assert cfg.optim_wrapper.optimizer.lr == 1e-4
    assert cfg.optim_wrapper.clip_grad.max_norm == 0.01
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert set(keys) == {'query_embed', 'query_feat', 'level_embed'}
    cfg = exchanged('mmdet::dino/dino-4scale_r50_8xb2-12e_coco', lr=3e-5)
    assert (cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.weight_decay) == (
        3e-5,
        1e-4,
    )
    assert cfg.model.data_preprocessor.pad_size_divisor == 32


def test_what_is_lost_is_said(monkeypatch):
    said = []
    monkeypatch.setattr(exchange_module, 'print_log', lambda text, **_: said.append(text))
    cfg = read_toolbox_config('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco')
    cfg.load_from = 'trained.pth'
    assert with_convnext(cfg).load_from is None
    (text,) = said
    assert 'the pretrained ResNet is gone (open-mmlab://detectron/resnet50_caffe)' in text
    assert 'load_from is gone (trained.pth)' in text
    assert 'bias_lr_mult=2.0' in text and 'starts from random weights' in text
    _, notes = exchange(
        read_toolbox_config('mmseg::deeplabv3/deeplabv3_r50-d8_4xb2-40k_cityscapes-512x1024')
    )
    assert 'open-mmlab://resnet50_v1c' in notes[0] and 'has stride 32' in notes[1]


# --- weights --------------------------------------------------------------------------------


def ours(**backbone) -> Config:
    cfg, _ = exchange(read_toolbox_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco'), ARCH)
    cfg.model.backbone |= backbone
    cfg.model.data_preprocessor |= dict(mean=[1.0] * 4, std=[2.0] * 4)
    cfg.load_from = 'mine.pth'
    return cfg


def test_a_config_of_ours_keeps_what_it_says_until_something_else_is_asked_for():
    start = dict(type='PretrainedConvNeXt', checkpoint='mine.pth')
    cfg = ours(frozen_stages=2, in_chans=4, init_cfg=start)
    same, notes = exchange(cfg)
    assert same.model == cfg.model and same.load_from == 'mine.pth' and notes == []
    other, notes = exchange(cfg, 'atto')
    assert other.model.data_preprocessor.mean == [1.0] * 4
    # What is random is not frozen, and nothing of another size is loaded.
    assert not {'frozen_stages', 'init_cfg'} & {*other.model.backbone}
    assert other.load_from is None and 'load_from is gone (mine.pth)' in notes
    weighty, _ = exchange(cfg, weights='convnext_small_1k_224')
    assert weighty.model.backbone.frozen_stages == 2
    assert weighty.model.data_preprocessor.mean == [123.675, 116.28, 103.53]


def test_a_file_of_weights_may_be_a_path():
    cfg = exchanged('mmdet::retinanet/retinanet_r50_fpn_1x_coco', weights=Path('mine.pth'))
    assert cfg.model.backbone.init_cfg.checkpoint == 'mine.pth'


def test_published_weights_bring_their_size_their_options_and_their_pixels():
    name = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco'
    cfg = exchanged(name, None, weights='convnextv2_base_1k_224_fcmae')
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.use_grn, backbone.layer_scale_init_value) == ('base', True, 0.0)
    assert backbone.drop_path_rate == 0.7 and cfg.model.neck.in_channels == [256, 512, 1024]
    cfg = exchanged(name, None, weights='timm/convnext_base.clip_laion2b', drop_path_rate=0.1)
    assert cfg.model.data_preprocessor.mean[0] == pytest.approx(122.77, abs=0.01)
    assert cfg.model.backbone.drop_path_rate == 0.1
    with pytest.raises(ValueError, match="arch='tiny', the size of 'convnext_tiny_1k_224'"):
        exchanged(name, 'base', weights='convnext_tiny_1k_224')
    assert exchanged(name, 'atto').model.backbone.drop_path_rate == 0.1


MMPRETRAINS = 'mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco'


def test_a_config_with_the_convnext_of_mmpretrain_loses_nothing():
    cfg, notes = exchange(read_toolbox_config(MMPRETRAINS))
    assert notes == []
    assert cfg.model.backbone == dict(
        type='ConvNeXt',
        arch='tiny',
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        init_cfg=dict(type='PretrainedConvNeXt', checkpoint=cfg.model.backbone.init_cfg.checkpoint),
        out_indices=(0, 1, 2, 3),
    )
    assert 'convnext-tiny_3rdparty_32xb128-noema_in1k' in cfg.model.backbone.init_cfg.checkpoint
    assert cfg.optim_wrapper.paramwise_cfg == dict(decay_rate=0.95, decay_type='layer_wise')
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.custom_imports.imports == ['convnext_backbones']
    cfg, _ = exchange(read_toolbox_config('mmdet::rtmdet/rtmdet_l_convnext_b_4xb32-100e_coco'))
    assert cfg.model.backbone.with_cp and cfg.model.backbone.out_indices == (1, 2, 3)
    again, _ = exchange(cfg)  # of ours, everything stays too
    assert again.model == cfg.model


@pytest.mark.parametrize(
    ('keywords', 'words'),
    [
        (dict(gap_before_final_norm=True), 'makes vectors'),
        (dict(act_cfg=dict(type='ReLU')), 'with GELU, got'),
        (dict(norm_cfg=dict(type='BN')), 'norms LN2d, got'),
        (dict(dilation=2), 'expected keywords of mmpretrain.ConvNeXt, got dilation'),
        (dict(init_cfg=dict(type='Kaiming')), 'Pretrained, TruncNormal or Constant'),
    ],
)
def test_what_only_mmpretrain_has_is_refused(keywords, words):
    cfg = read_toolbox_config(MMPRETRAINS)
    cfg.model.backbone.update(keywords)
    with pytest.raises(ValueError, match=words):
        with_convnext(cfg)


@pytest.mark.parametrize(
    'keywords',
    [
        dict(layer_scale_init_value=0.5, norm_cfg=dict(type='LN2d', eps=1e-3)),
        dict(use_grn=True, layer_scale_init_value=0.0, in_channels=4, linear_pw_conv=False),
        dict(stem_patch_size=2, out_indices=[1, -1]),
    ],
)
def test_a_checkpoint_trained_with_mmpretrain_loads_and_computes_the_same(keywords, tmp_path):
    import_mmpretrain()
    old = dict(
        type='mmpretrain.ConvNeXt',
        arch=dict(depths=[1, 1, 2, 1], channels=DIMS),
        out_indices=[0, 1, 2, 3],
        gap_before_final_norm=False,
    )
    old.update(keywords)
    channels = [DIMS[i] for i in old['out_indices']]
    model = dict(
        type='EncoderDecoder',
        backbone=old,
        decode_head=dict(
            type='UPerHead',
            in_channels=channels,
            in_index=list(range(len(channels))),
            channels=16,
            num_classes=3,
            norm_cfg=dict(type='BN'),
        ),
        test_cfg=dict(mode='whole'),
    )
    cfg = Config(dict(default_scope='mmseg', model=model))
    with DefaultScope.overwrite_default_scope('mmseg'):
        import mmseg.models  # noqa: F401

        torch.manual_seed(0)
        theirs = MODELS.build(Config(dict(model=model)).model).eval()
        ours = MODELS.build(with_convnext(cfg).model).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    torch.save(dict(state_dict=theirs.state_dict()), tmp_path / 'trained.pth')
    load_trained(ours, str(tmp_path / 'trained.pth'))
    images = torch.randn(2, keywords.get('in_channels', 3), 64, 96)
    with torch.no_grad():
        expected, actual = theirs(images), ours(images)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
