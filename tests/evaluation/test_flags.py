"""Flags that change how a config evaluates; test-time augmentation of tiny models."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from support import noisy_models  # noqa: F401, registers ColorBackbone
from support.noisy_runs import ROOT, refusal

from convnext_backbones.evaluation import flags as evaluation_flags


def test_flags_that_do_not_apply_are_refused(segmented, monkeypatch):
    monkeypatch.chdir(segmented.cwd)
    for flag in ('--fast-eval', '--classwise'):
        sentence = refusal(segmented.config, segmented.dump, flag)
        assert f"expected CocoMetric or FastCocoMetric for {flag}, got 'IoUMetric'" in sentence


def color_segmentor(name: str, tta: bool, data_root: Path):
    """A published segmentor with a classifier of colors as its network, and its test data."""
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    head = dict(in_channels=3, in_index=0, channels=3, num_convs=0, concat_input=False)
    cfg.model.backbone = dict(type='ColorBackbone')
    cfg.model.decode_head = cfg.model.pop('auxiliary_head') | dict(num_classes=3, **head)
    cfg.test_dataloader.dataset.data_root = str(data_root)
    if tta:
        evaluation_flags.set_tta(cfg)
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model).eval()
    return model, DATASETS.build(cfg.test_dataloader.dataset)


@pytest.fixture(scope='module')
def ade_like(tmp_path_factory) -> Path:
    """Two images in the layout of ADE20K, of sizes that are not near 512: 4 to 3, and 5 to 1."""
    root = tmp_path_factory.mktemp('ade')
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(150, 200), (60, 300)]):
        blocks = rng.integers(0, 256, (height // 20, width // 20, 3), np.uint8)
        image = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_CUBIC)
        labels = np.full((height, width), 1 + i, np.uint8)
        for folder, array, suffix in (('images', image, '.jpg'), ('annotations', labels, '.png')):
            path = root / folder / 'validation' / f'ADE_val_{i}{suffix}'
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), array)
    return root


# What the backbone sees of the two images: (height, width), in this order.
WINDOWS = {
    512: [[(512, 512)] * 2, [(410, 512)] * 6],
    640: [[(640, 640)] * 2, [(512, 640)] * 6],
}
AUGMENTED = {
    512: [
        [(256, 341), (384, 512), (512, 683), (640, 853), (768, 1024), (896, 1195)],
        [(205, 1024), (307, 1536), (410, 2048), (512, 2560), (614, 3072), (717, 3584)],
    ],
    640: [
        [(320, 427), (480, 640), (640, 853), (800, 1067), (960, 1280), (1120, 1493)],
        [(256, 1280), (384, 1920), (512, 2560), (640, 3200), (768, 3840), (896, 4480)],
    ],
}


@pytest.mark.parametrize(
    ('name', 'size'), [('upernet_convnext_t', 512), ('upernet_convnext_b_in22k', 640)]
)
@pytest.mark.parametrize('tta', [False, True], ids=['windows', 'augmented'])
def test_sizes_that_the_network_sees(name, size, tta, ade_like):
    model, dataset = color_segmentor(name, tta, ade_like)
    seen = (model.module if tta else model).backbone.seen
    for i, shape in enumerate([(150, 200), (60, 300)]):
        seen.clear()
        with torch.no_grad():
            (sample,) = model.test_step(pseudo_collate([dataset[i]]))
        if tta:
            assert seen == [s for s in AUGMENTED[size][i] for _ in ('as it is', 'flipped')]
        else:
            assert seen == WINDOWS[size][i]
        assert sample.pred_sem_seg.shape == shape


def test_augmented_predictions_are_averaged_shares(ade_like):
    model, dataset = color_segmentor('upernet_convnext_t', True, ade_like)
    segmentor = model.module
    torch.nn.init.normal_(segmentor.decode_head.conv_seg.weight, std=2)
    image = cv2.imread(str(ade_like / 'images/validation/ADE_val_0.jpg'))[..., ::-1]
    mean, std = (getattr(segmentor.data_preprocessor, k).flatten().numpy() for k in ('mean', 'std'))
    shares = 0
    for height, width in AUGMENTED[512][0]:
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        for flipped in (False, True):
            view = resized[:, ::-1] if flipped else resized
            inputs = torch.tensor((view - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
            with torch.no_grad():
                logits = segmentor.decode_head(segmentor.backbone(inputs))
            for shape in ((height, width), (150, 200)):
                logits = F.interpolate(logits, shape, mode='bilinear', align_corners=False)
            share = logits.softmax(1)
            shares = shares + (share.flip(3) if flipped else share) / 12
    with torch.no_grad():
        (sample,) = model.test_step(pseudo_collate([dataset[0]]))
    first, second = shares[0].topk(2, dim=0).values  # (150, 200) each
    clear = first - second > 1e-4
    assert clear.float().mean() > 0.99
    expected = shares[0].argmax(0)
    assert len(expected.unique()) == 3
    assert torch.equal(sample.pred_sem_seg.data.squeeze()[clear], expected[clear])


def test_augmentation_keeps_the_inference_mode_of_other_configs():
    cfg = Config.fromfile(ROOT / 'configs/sample/upernet_convnext_sample.py')
    cfg.model.test_cfg = ConfigDict(mode='slide', crop_size=(64, 64), stride=(32, 32))
    evaluation_flags.set_tta(cfg)
    assert cfg.model.module.test_cfg.mode == 'slide'
