"""Whatever is wrong with the files of a folder, it ends in data or in a sentence."""

import random

import pytest
from support import folders

from convnext_backbones.data.find import find_data
from convnext_backbones.data.prepare import prepare

LAYOUTS = (
    *('official_coco', 'label_studio_coco', 'roboflow_coco', 'yolo_lists', 'yolo_polygons'),
    *('cvat_yolo', 'voc2012', 'cityscapes', 'cvat_masks', 'camvid', 'camvid_colors'),
    *('roboflow_masks', 'black_and_white'),
)


def damage(path, rng) -> None:
    content = bytearray(path.read_bytes())
    way = rng.choice(['remove', 'empty', 'cut', 'change', 'rename', 'noise'])
    if way == 'remove':
        path.unlink()
    elif way == 'rename':
        path.rename(path.with_name(rng.choice([f'x{path.name}', f'{path.stem}.JPG', 'ü.txt'])))
    else:
        for _ in range(rng.randint(1, 8) if content else 0):
            content[rng.randrange(len(content))] = rng.randrange(256)
        changed = {'empty': b'', 'cut': content[: len(content) // 2], 'noise': rng.randbytes(99)}
        path.write_bytes(changed.get(way, content))


@pytest.mark.parametrize('name', LAYOUTS)
def test_damaged_files_end_in_data_or_in_a_sentence(name, tmp_path):
    rng = random.Random(name)
    for number in range(6):
        folder = getattr(folders, name)(tmp_path / str(number))
        files = sorted(path for path in folder.rglob('*') if path.is_file())
        for path in rng.sample(files, 3):
            damage(path, rng)
        try:
            found = prepare(find_data(folder), tmp_path / f'ready{number}')
        except ValueError as error:
            assert 'expected' in str(error) or 'cannot read' in str(error)
        else:
            assert found.classes and found.splits.keys() >= {'train', 'val'}
