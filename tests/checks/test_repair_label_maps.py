"""Label maps as people have them are repaired into copies."""

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image
from support.datasets import CLASSES, HEIGHT, SPLITS, WIDTH, check_files, draw

from convnext_backbones.checks.repair import repair_data

RED, GREEN = (200, 0, 0), (0, 200, 0)
NO_PALETTE = dict(metainfo=dict(classes=CLASSES))
PLAIN = dict(reduce_zero_label=False, metainfo=dict(classes=CLASSES, palette=[RED, GREEN]))


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def save(maps, *values, dtype=np.uint8, splits=SPLITS) -> None:
    """Write all label maps with the values in turn: numbers or colors."""
    array = np.array(values, dtype)
    flat = array[np.arange(HEIGHT * WIDTH) % len(array)]
    for split in splits:
        for number in range(1, 4):
            path = maps.folder / f'maps/{split}/{number}.png'
            Image.fromarray(flat.reshape(HEIGHT, WIDTH, *array.shape[1:])).save(path)


def labels(path) -> list[int]:
    with Image.open(path) as image:
        array = np.array(image)
    assert array.dtype == np.uint8 and array.shape == (HEIGHT, WIDTH)
    return array.ravel()[:4].tolist()


def repaired(maps, tmp_path, **overrides):
    repair = repair_data(maps.config(**PLAIN | overrides), tmp_path / 'out')
    kinds = {change.kind for log in repair.logs for change in log.changes}
    return repair, kinds, {left.kind for log in repair.logs for left in log.left}


@pytest.mark.parametrize(
    ('values', 'dtype', 'overrides', 'expected', 'kind'),
    [
        ([RED, GREEN, (0, 0, 0), RED], np.uint8, {}, [0, 1, 255, 0], 'colors written as labels'),
        ([RED, GREEN, (224, 224, 192), RED], np.uint8, {}, [0, 1, 255, 0], 'colors written'),
        ([(*RED, 255), (*GREEN, 255)], np.uint8, {}, [0, 1, 0, 1], 'colors written'),
        ([RED, GREEN], np.uint8, dict(reduce_zero_label=True), [1, 2, 1, 2], 'colors written'),
        ([(0,) * 3, (1,) * 3], np.uint8, {}, [0, 1, 0, 1], 'one of several equal channels'),
        ([0, 255], np.uint8, {}, [0, 1, 0, 1], 'masks of 0 and their highest value'),
        ([(0,) * 3, (255,) * 3], np.uint8, {}, [0, 1, 0, 1], 'one of several equal channels'),
        ([(0,) * 3, (1,) * 3], np.uint8, NO_PALETTE, [0, 1, 0, 1], 'one of several'),
        ([0, 65535], np.uint16, {}, [0, 1, 0, 1], 'masks of 0 and their highest value'),
        ([0, 1, 255, 0], np.uint16, {}, [0, 1, 255, 0], 'label maps of 16 bits'),
        ([0, 1, 65535, 0], np.uint16, {}, [0, 1, 255, 0], 'label maps of 16 bits'),
    ],
)
def test_a_repair(maps, tmp_path, values, dtype, overrides, expected, kind):
    save(maps, *values, dtype=dtype)
    before = {path: path.read_bytes() for path in maps.folder.rglob('*.png')}
    repair, kinds, left = repaired(maps, tmp_path, **overrides)
    assert len(kinds) == 1 and min(kinds).startswith(kind) and not left
    assert labels(tmp_path / 'out/maps/train/1.png') == expected
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(repair.options) == [
        f'{split}_dataloader.dataset.data_prefix.seg_map_path' for split in SPLITS
    ]
    assert check_files(repair.config) == []
    assert repair_data(repair.config, tmp_path / 'again').folder is None


def test_healthy_maps_are_left_alone(maps, tmp_path):
    repair, kinds, left = repaired(maps, tmp_path, reduce_zero_label=True)
    assert not kinds and not left and not (tmp_path / 'out').exists()


def test_splits_that_share_a_folder(maps, tmp_path):
    """As in PASCAL VOC: files with names divide what is in one folder."""
    save(maps, RED, GREEN)
    cfg = maps.config(**PLAIN)
    for split, names in (('train', ['1', '2']), ('val', ['3'])):
        (maps.folder / f'{split}.txt').write_text('\n'.join(names))
        prefix = dict(img_path='images/train', seg_map_path='maps/train')
        cfg[f'{split}_dataloader'].dataset.update(ann_file=f'{split}.txt', data_prefix=prefix)
    repair = repair_data(cfg, tmp_path / 'out')
    assert [len(log.changes) for log in repair.logs] == [3]
    for number in range(1, 4):
        assert labels(tmp_path / f'out/maps/train/{number}.png') == [0, 1, 0, 1]
    assert check_files(repair.config) == []


def test_a_split_of_one_class_and_void_is_no_mask(maps, tmp_path):
    """0 and 255 alone, but other maps say that the second class is 1."""
    save(maps, 0, 1, 255)
    save(maps, 0, 255, splits=['val'])
    repair, kinds, left = repaired(maps, tmp_path)
    assert repair.folder is None and not kinds and not left


def test_colors_of_indexed_maps_beside(maps, tmp_path):
    """Some maps have a palette, the others its colors."""
    save(maps, RED, GREEN)
    path = maps.folder / 'maps/train/2.png'
    indexed = Image.fromarray(np.resize(np.array([0, 1], np.uint8), (HEIGHT, WIDTH)), 'P')
    indexed.putpalette([*RED, *GREEN])
    indexed.save(path)
    save(maps, 0, 1, splits=['val'])
    repair, kinds, left = repaired(maps, tmp_path, metainfo=dict(classes=CLASSES))
    assert len(kinds) == 1 and not left
    assert labels(tmp_path / 'out/maps/train/1.png') == [0, 1, 0, 1]
    assert (tmp_path / 'out/maps/train/2.png').read_bytes() == path.read_bytes()  # copied
    assert [*repair.options] == ['train_dataloader.dataset.data_prefix.seg_map_path']
    assert check_files(repair.config) == []


@pytest.mark.parametrize(
    ('values', 'dtype', 'words'),
    [
        ([RED, (1, 2, 3)], np.uint8, 'colors of no class: (1, 2, 3)'),
        ([0, 1, 7, 9], np.uint8, 'ignore_labels = [7, 9]'),
        ([0, 1, 300], np.uint16, 'ignore_labels = [300]'),
    ],
)
def test_what_is_left(maps, tmp_path, values, dtype, words):
    save(maps, *values, dtype=dtype)
    repair, kinds, left = repaired(maps, tmp_path)
    assert repair.folder is None and len(left) == 1 and words in min(left)
    assert check_files(repair.config)


def test_files_that_are_wrong_are_left(maps, tmp_path):
    save(maps, 0, 255)
    maps.label('train/1', 0, 255, size=(WIDTH, HEIGHT))
    (maps.folder / 'maps/train/2.png').write_bytes(b'no image')
    (maps.folder / 'maps/train/3.png').unlink()
    _, kinds, left = repaired(maps, tmp_path)
    assert {words.split(';')[0] for words in left} == {
        'label maps of another size than their image',
        'label maps that cannot be read',
        'label maps that do not exist',
    }
    assert (tmp_path / 'out/maps/train/2.png').read_bytes() == b'no image'  # as it was


def test_a_folder_that_a_dataset_reads_is_refused(maps):
    save(maps, 0, 255)
    with pytest.raises(ValueError, match='outside of'):
        repair_data(maps.config(**PLAIN), maps.folder / 'images/train/out')


def test_maps_with_losses(maps, tmp_path):
    for split in SPLITS:
        for number in range(1, 4):
            draw(maps.folder / f'maps/{split}/{number}.jpg')
    _, kinds, left = repaired(maps, tmp_path, seg_map_suffix='.jpg')
    assert not kinds and min(left).startswith('colors of no class')
