"""Data get a part for validation, the same every time, and nothing is half-written."""

import json

import pytest
from support import folders
from support.folders import coco, images, numbered, pairs, write

from convnext_backbones.data import prepare as prepare_module
from convnext_backbones.data.find import find_data
from convnext_backbones.data.prepare import prepare
from convnext_backbones.data.splitting import divide


def files(folder) -> dict:
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()
    }


def image_names(split) -> list[str]:
    return [image['file_name'] for image in json.loads(split.annotations.read_text())['images']]


def test_names_are_divided_by_their_hash_whatever_their_order():
    names = numbered(1000)
    train, val = divide(names, 0.2)
    assert len(val) == 200 and sorted(train + val) == names
    again = divide(names[::-1], 0.2)
    assert sorted(again[1]) == val
    more = divide([*names, *numbered(10, start=5000)], 0.2)[1]
    assert len(set(val) - set(more)) < 15  # new images leave most where they were


@pytest.mark.parametrize('share', [0.01, 0.99])
def test_both_parts_get_something(share):
    assert all(divide(['a', 'b', 'c'], share))


@pytest.mark.parametrize(
    'name', ['one_json', 'yolo_lists', 'voc_xml', 'camvid_colors', 'cvat_masks']
)
def test_the_same_data_give_the_same_files(name, tmp_path):
    make = getattr(folders, name)
    for number in range(2):
        prepare(find_data(make(tmp_path / 'data')), tmp_path / str(number))
    assert files(tmp_path / '0') == files(tmp_path / '1') != {}


def test_the_share_is_the_users(tmp_path):
    found = find_data(folders.one_json(tmp_path / 'data'))
    ready = prepare(found, tmp_path / 'ready', val_share=0.5)
    assert [split.number for split in ready.splits.values()] == [3, 3]
    assert sorted(
        image_names(ready.splits['train']) + image_names(ready.splits['val'])
    ) == numbered(6)
    with pytest.raises(ValueError, match='expected val_share to be between 0 and 1, got 1'):
        prepare(found, tmp_path / 'other', val_share=1)


@pytest.mark.parametrize('lonely', range(1, 11))
def test_no_class_is_lost_to_training(lonely, tmp_path):
    names = images(tmp_path / 'data', *numbered(10))
    content = coco(names, categories=('cat',))
    content['categories'].append(dict(id=2, name='rare'))
    content['annotations'][lonely - 1]['category_id'] = 2
    write(tmp_path / 'data/x.json', content)
    ready = prepare(find_data(tmp_path / 'data'), tmp_path / 'ready')
    train = json.loads(ready.splits['train'].annotations.read_text())
    assert {entry['category_id'] for entry in train['annotations']} == {1, 2}
    assert ready.splits['val'].number > 0


def test_both_parts_get_images_with_objects(tmp_path):
    names = images(tmp_path / 'data', *numbered(40))
    content = coco(names)
    content['annotations'] = content['annotations'][:4]
    write(tmp_path / 'data/x.json', content)
    ready = prepare(find_data(tmp_path / 'data'), tmp_path / 'ready')
    assert [split.number for split in ready.splits.values()] == [3, 1]
    assert len(image_names(ready.splits['val'])) == 8


def test_label_maps_are_divided_in_place(tmp_path):
    pairs(tmp_path / 'data/images', tmp_path / 'data/masks', numbered(10), 0, 1)
    ready = prepare(find_data(tmp_path / 'data'), tmp_path / 'ready')
    assert sorted(files(tmp_path / 'ready')) == [*map(type(tmp_path), ['train.txt', 'val.txt'])]
    names = [split.list_file.read_text().split() for split in ready.splits.values()]
    assert sorted(names[0] + names[1]) == [name[:-4] for name in numbered(10)]
    assert {split.annotations for split in ready.splits.values()} == {tmp_path / 'data/masks'}


def test_what_is_too_little_is_refused(tmp_path):
    write(tmp_path / 'one/x.json', coco(images(tmp_path / 'one', 'a.jpg')))
    with pytest.raises(ValueError, match='at least two annotated images.*found 1; annotate more'):
        prepare(find_data(tmp_path / 'one'), tmp_path / 'ready')
    pairs(tmp_path / 'map/images', tmp_path / 'map/masks', ['a.jpg'], 0, 1)
    with pytest.raises(ValueError, match='at least two label maps.*found 1; annotate more'):
        prepare(find_data(tmp_path / 'map'), tmp_path / 'ready')
    assert not list(tmp_path.glob('ready*'))


@pytest.mark.parametrize('parts', [('val',), ('test',), ('val', 'test')])
def test_without_a_part_to_train_with_nothing_is_written(parts, tmp_path):
    folder = folders.json_per_split(tmp_path / 'data')
    for split in {'train', 'val', 'test'} - set(parts):
        (folder / f'{split}.json').unlink()
    found = find_data(folder)
    assert any('No part is for training' in note for note in found.notes)
    with pytest.raises(ValueError, match=f'only {" and ".join(parts)}; name the part'):
        prepare(found, tmp_path / 'ready')


def test_what_exists_is_not_overwritten(tmp_path):
    found = find_data(folders.one_json(tmp_path / 'data'))
    write(tmp_path / 'ready/mine.txt', 'keep')
    with pytest.raises(FileExistsError, match='expected no file or folder at .*ready'):
        prepare(found, tmp_path / 'ready')
    assert files(tmp_path / 'ready') == {type(tmp_path)('mine.txt'): b'keep'}


def test_a_crash_leaves_nothing(tmp_path, monkeypatch):
    def crash(*_):
        raise OSError('the disk is full')

    found = find_data(folders.yolo_lists(tmp_path / 'data'))
    monkeypatch.setattr('convnext_backbones.data.objects.write_coco', crash)
    with pytest.raises(OSError, match='the disk is full'):
        prepare(found, tmp_path / 'ready')
    assert not list(tmp_path.glob('ready*'))
    monkeypatch.undo()
    monkeypatch.setattr(prepare_module, '_divide', crash)
    with pytest.raises(OSError, match='the disk is full'):
        prepare(find_data(folders.one_json(tmp_path / 'other')), tmp_path / 'ready')
    assert not list(tmp_path.glob('ready*'))


def test_notes_of_finding_and_of_converting_are_kept(tmp_path):
    folder = folders.label_studio_yolo(tmp_path / 'data')
    (folder / 'labels/0a1b2c30-photo.txt').write_text('0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2\nx\n')
    ready = prepare(find_data(folder), tmp_path / 'ready')
    notes = '\n'.join(ready.notes)
    for words in (
        'There is no data.yaml',
        'notes.json',
        'beyond the 2',
        'No part is for validation',
    ):
        assert words in notes


def test_augmented_copies_of_an_image_stay_together():
    names = [f'{image}_jpg.rf.{copy}{image}.jpg' for image in range(10) for copy in 'abc']
    first, second = divide(names, 0.2)
    assert len(second) == 6
    assert not {name.partition('.rf.')[0] for name in first} & {
        name.partition('.rf.')[0] for name in second
    }
    assert all(divide(names[:3], 0.5))
