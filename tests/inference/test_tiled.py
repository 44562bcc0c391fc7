"""Images predicted by tiles: labels and objects are those of the whole image."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from pycocotools import mask as coco
from support.channels import write_tiff
from support.stand_ins import CLASSES, detector, segmentor

from convnext_backbones.inference.predictor import Predictor
from convnext_backbones.inference.tiled import predict_file
from convnext_backbones.inference.tiles import Tiling

rasterio = pytest.importorskip('rasterio')
TILING = Tiling(128, 64)
MARGIN = TILING.overlap // 2
PLACE = dict(
    crs='EPSG:32633', transform=rasterio.transform.from_origin(500_000, 5_600_000, 0.5, 0.5)
)


def picture(height: int = 300, width: int = 340) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.blur(noise, (9, 9))


def labels_by_mean(radius: int):
    """Labels that depend on pixels at most ``radius`` away; outside of the input is black."""

    def label(pixels: np.ndarray) -> np.ndarray:
        side = 2 * radius + 1
        means = cv2.boxFilter(
            pixels[..., 0].astype(np.float64), -1, (side, side), borderType=cv2.BORDER_CONSTANT
        )
        return (means * 50).astype(int) % len(CLASSES)

    return label


def predicted_labels(path: Path, predictor) -> np.ndarray:
    record, _ = predict_file(predictor, path, TILING)
    labels = cv2.imread(str(predictor.out / 'label_maps' / record['label_map']), -1)
    shares = {name: (labels == i).mean() for i, name in enumerate(CLASSES) if (labels == i).any()}
    assert record['share'] == pytest.approx(shares, abs=1e-5)
    return labels


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_labels_are_those_of_the_whole_image_within_the_receptive_field(suffix, tmp_path):
    path = tmp_path / f'a{suffix}'
    cv2.imwrite(str(path), picture())
    whole = labels_by_mean(MARGIN)(picture())
    found = predicted_labels(path, segmentor(tmp_path / 'out', labels_by_mean(MARGIN)))
    assert np.array_equal(found, whole)


def test_beyond_the_receptive_field_only_the_borders_of_cores_differ(tmp_path):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), picture())
    extra = 6
    label = labels_by_mean(MARGIN + extra)
    differs = predicted_labels(path, segmentor(tmp_path / 'out', label)) != label(picture())
    assert differs.any()
    grid = np.arange(64, 340, 64)
    near = [np.abs(np.arange(size)[:, None] - grid).min(1) <= extra for size in differs.shape]
    assert not differs[~near[0][:, None] & ~near[1]].any()


def test_labels_of_a_convolutional_network(tmp_path):
    """Two stages and a head of 3x3: the receptive field ends within the margin."""
    tiling = Tiling(256, 128)
    backbone = dict(type='ConvNeXt', arch=dict(depths=[1] * 4, dims=[8] * 4), out_indices=(0, 1))
    head = dict(
        type='FCNHead', in_channels=8, in_index=1, channels=8, num_convs=1, num_classes=3,
        concat_input=False, dropout_ratio=0,
    )  # fmt: skip
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = dict(type='EncoderDecoder', backbone=backbone, decode_head=head)
        model |= dict(test_cfg=dict(mode='whole'), train_cfg=dict())
        network = MODELS.build(model).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)

    def logits(pixels: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / 64
        with torch.no_grad():
            return network.encode_decode(x, [dict(img_shape=x.shape[2:])])[0]

    image = picture(480, 640)
    middle = logits(image).flatten(1).median(1).values[:, None, None]  # makes all classes appear

    def label(pixels: np.ndarray) -> np.ndarray:
        return (logits(pixels) - middle).argmax(0).numpy()

    path = tmp_path / 'a.tif'
    cv2.imwrite(str(path), image)
    predict_file(segmentor(tmp_path / 'out', label), path, tiling)
    found = cv2.imread(str(tmp_path / 'out/label_maps/a.tif'), -1)
    whole = label(image)
    assert min(np.bincount(whole.ravel(), minlength=3)) > 1000
    assert np.mean(found != whole) < 1e-4  # sums are rounded differently at other sizes


def drawn_objects(size: int = 400) -> np.ndarray:
    """Objects of values 1, 2, ... on ground of 0: small ones, and some larger than the overlap."""
    image = np.zeros((size, size), np.uint8)
    cv2.ellipse(image, (200, 330), (150, 30), 10, 0, 360, 1, -1)
    cv2.rectangle(image, (20, 20), (60, 250), 2, -1)
    for number, (x, y) in enumerate([(96, 96), (130, 60), (160, 160), (350, 250), (250, 120)]):
        cv2.circle(image, (x, y), 14, 3 + number, -1)
    cv2.rectangle(image, (300, 20), (390, 200), 9, -1)
    return image


def test_objects_are_those_of_the_image_and_their_outlines_lie_on_the_earth(tmp_path):
    path = tmp_path / 'a.tif'
    image = drawn_objects()
    write_tiff(path, image[..., None].repeat(3, 2), photometric='RGB', **PLACE)
    predictor = detector(tmp_path / 'out')
    record, (sample, overview) = predict_file(predictor, path, TILING)
    found = record['instances']
    masks = [coco.decode(instance['mask']).astype(bool) for instance in found]
    assert len(found) == len(np.unique(image)) - 1
    for value in np.unique(image)[1:]:
        (index,) = [i for i, mask in enumerate(masks) if np.array_equal(mask, image == value)]
        assert found[index]['category'] == CLASSES[value % 3]
        y, x = masks[index].nonzero()
        assert found[index]['bbox'] == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert np.array_equal(overview.pixels[..., 0], image)
    assert np.array_equal(sample.pred_instances.masks.any(0).numpy(), image > 0)

    content = json.loads((tmp_path / 'out/outlines' / record['outlines']).read_text())
    assert content['crs']['properties']['name'] == 'urn:ogc:def:crs:EPSG::32633'
    shapes = [(feature['geometry'], 1) for feature in content['features']]
    burned = rasterio.features.rasterize(shapes, image.shape, transform=PLACE['transform'])
    assert np.array_equal(burned, image > 0)


def test_a_label_map_keeps_the_georeference(tmp_path):
    path = tmp_path / 'a.tif'
    write_tiff(path, picture(), photometric='RGB', **PLACE)
    predict_file(segmentor(tmp_path / 'out', labels_by_mean(3)), path, TILING)
    with rasterio.open(tmp_path / 'out/label_maps/a.tif') as file:
        assert file.crs.to_epsg() == 32633 and file.transform == PLACE['transform']
        assert file.block_shapes == [(64, 64)]


def test_an_interruption_leaves_no_half_of_a_label_map(tmp_path):
    path = tmp_path / 'a.tif'
    cv2.imwrite(str(path), picture())
    calls = []

    def interrupted(pixels):
        calls.append(pixels)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return np.zeros(pixels.shape[:2], int)

    with pytest.raises(KeyboardInterrupt):
        predict_file(segmentor(tmp_path / 'out', interrupted), path, TILING)
    assert not [*(tmp_path / 'out/label_maps').iterdir()]


LARGE = """
import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from support.stand_ins import detector, segmentor

from convnext_backbones.inference.tiled import predict_file
from convnext_backbones.inference.tiles import Tiling

predictors = dict(
    det=detector, seg=lambda out: segmentor(out, lambda x: np.zeros(x.shape[:2], int)))
predict_file(predictors[sys.argv[1]](Path('out')), Path('large.tif'), Tiling())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize('task', ['det', 'seg'])
@pytest.mark.parametrize('form', ['tiles', 'strips'])
def test_30000_x_30000_pixels_take_the_memory_of_a_tile(form, task, tmp_path):
    tiled = dict(tiled=True, blockxsize=512, blockysize=512, compress='deflate')
    options = dict(tiled if form == 'tiles' else {}, bigtiff='YES', sparse_ok=True)
    size = dict(height=30_000, width=30_000, count=3, dtype='uint8', photometric='RGB')
    with rasterio.open(tmp_path / 'large.tif', 'w', driver='GTiff', **size, **options):
        pass
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, '-c', LARGE, task],
        cwd=tmp_path,
        env=dict(PYTHONPATH=f'{root}:{root / "tests"}', PATH='', OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout.split()[-1]) < 1.25  # GiB; the image has 2.5


def test_one_channel_does_not_stand_for_several():
    """The normalization would broadcast it."""
    predictor = object.__new__(Predictor)
    predictor.task, predictor.classes = 'mmseg', CLASSES
    mean = torch.zeros(4, 1, 1)
    predictor.model = SimpleNamespace(data_preprocessor=SimpleNamespace(mean=mean))
    for channels in (1, 3, 5):
        with pytest.raises(ValueError, match=f'of 4 channels.* got {channels}'):
            predictor.predict(np.zeros((64, 64, channels), np.float32))
