"""The generated sample data: deterministic, in both layouts, and consistent with itself."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'make_sample_data.py'
SIZE = 96
COUNTS = {'train': 12, 'val': 4}


def make(out: Path, seed: int = 0) -> subprocess.CompletedProcess:
    flags = [f'--{split}={count}' for split, count in COUNTS.items()]
    command = [sys.executable, TOOL, out, *flags, f'--size={SIZE}', f'--seed={seed}']
    return subprocess.run(map(str, command), capture_output=True, text=True)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('sample') / 'data'
    assert make(out).returncode == 0
    return out


def test_same_seed_same_files_other_seed_other_files(data, tmp_path):
    assert make(tmp_path / 'again').returncode == 0
    assert make(tmp_path / 'other', seed=1).returncode == 0
    assert digests(tmp_path / 'again') == digests(data)
    images = {name for name in digests(data) if name.endswith('.jpg')}
    assert all(digests(tmp_path / 'other')[name] != digests(data)[name] for name in images)


def test_running_again_keeps_the_data_and_other_options_are_refused(data):
    before = digests(data)
    again = make(data)
    assert again.returncode == 0 and 'already' in again.stdout
    other = make(data, seed=5)
    assert other.returncode == 2 and 'expected an empty or new folder' in other.stderr
    assert digests(data) == before


@pytest.mark.parametrize('split', COUNTS)
def test_coco_layout_loads_and_masks_fill_their_boxes(data, split):
    from pycocotools.coco import COCO

    coco = COCO(str(data / 'coco' / 'annotations' / f'instances_{split}.json'))
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list('0123456789')
    assert len(coco.getImgIds()) == COUNTS[split]
    for image in coco.loadImgs(coco.getImgIds()):
        pixels = cv2.imread(str(data / 'coco' / split / image['file_name']))
        assert pixels.shape == (image['height'], image['width'], 3) == (SIZE, SIZE, 3)
        annotations = coco.loadAnns(coco.getAnnIds(image['id']))
        assert 1 <= len(annotations) <= 5
        for annotation in annotations:
            ys, xs = np.nonzero(coco.annToMask(annotation))
            x, y, width, height = annotation['bbox']
            box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            assert np.abs(box - [x, y, x + width, y + height]).max() <= 1
            assert len(xs) == pytest.approx(annotation['area'], rel=0.1)


def test_label_maps_follow_ade20k_and_agree_with_the_boxes(data):
    names = {'train': 'training', 'val': 'validation'}
    seen = set()
    for split, ade_name in names.items():
        path = data / 'coco' / 'annotations' / f'instances_{split}.json'
        annotations = json.loads(path.read_text())
        by_image = {}
        for annotation in annotations['annotations']:
            by_image.setdefault(annotation['image_id'], []).append(annotation)
        for image in annotations['images']:
            stem = Path(image['file_name']).stem
            coco_image = data / 'coco' / split / f'{stem}.jpg'
            ade_image = data / 'ade20k' / 'images' / ade_name / f'{stem}.jpg'
            assert coco_image.read_bytes() == ade_image.read_bytes()
            labels = cv2.imread(
                str(data / 'ade20k' / 'annotations' / ade_name / f'{stem}.png'),
                cv2.IMREAD_GRAYSCALE,
            )
            assert labels.shape == (SIZE, SIZE)
            seen |= set(np.unique(labels))
            # Label 0 is unlabeled, 1 the background, 2 + d the digit d of category id d + 1.
            for annotation in by_image[image['id']]:
                x, y, width, height = annotation['bbox']
                window = labels[y : y + height, x : x + width]
                assert (window == annotation['category_id'] + 1).any()
    assert seen <= set(range(12)) and {0, 1} <= seen


def test_splits_share_no_digit(monkeypatch, tmp_path):
    from tools import make_sample_data

    pools = []
    maker = make_sample_data.SceneMaker

    def record(images, *args):
        pools.append({image.tobytes() for image in images})
        return maker(images, *args)

    monkeypatch.setattr(make_sample_data, 'SceneMaker', record)
    make_sample_data.make_sample_data(
        tmp_path / 'data', make_sample_data.Options(train=1, val=1, size=SIZE, seed=0)
    )
    train, val = pools
    assert len(train) > 1000 and len(val) > 300
    assert not train & val


def test_a_failure_leaves_nothing_behind(tmp_path):
    result = subprocess.run(
        [sys.executable, str(TOOL), str(tmp_path / 'data'), '--size=10'],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and '64 to 800 pixels' in result.stderr
    assert list(tmp_path.iterdir()) == []
