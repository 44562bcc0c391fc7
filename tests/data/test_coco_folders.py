"""Annotation files in COCO format that are not quite as mmdet reads them."""

import json

import pytest
from support import folders
from support.folders import coco, images, numbered, write

from convnext_backbones.data.find import find_data
from convnext_backbones.data.prepare import prepare


def annotations(split) -> dict:
    return json.loads(split.annotations.read_text())


def ready(folder, tmp_path):
    return prepare(find_data(folder), tmp_path / 'ready')


def test_classes_in_another_order_are_brought_into_that_of_the_training_part(tmp_path):
    folder = folders.json_per_split(tmp_path / 'data')
    write(folder / 'val.json', coco(numbered(4, '.png'), categories=('dog', 'cat')))
    found = find_data(folder)
    assert found.classes == ('cat', 'dog') and 'another order' in found.convert
    val = annotations(prepare(found, tmp_path / 'ready').splits['val'])
    assert [category['name'] for category in val['categories']] == ['cat', 'dog']
    assert [entry['category_id'] for entry in val['annotations']] == [1, 2, 1, 2]


def test_images_that_are_missing_are_left_out(tmp_path):
    folder = folders.json_per_split(tmp_path / 'data')
    (folder / 'val/000002.png').unlink()  # one of this name is in train
    found = find_data(folder)
    assert found.splits['val'].images == folder / 'val' and found.splits['val'].number == 3
    assert any('1 image of 4 in val.json' in note and '000002.png' in note for note in found.notes)
    val = annotations(prepare(found, tmp_path / 'ready').splits['val'])
    assert [image['id'] for image in val['images']] == [1, 3, 4]
    assert {entry['image_id'] for entry in val['annotations']} == {1, 3, 4}


@pytest.mark.parametrize(
    'listed',
    ['C:\\me\\data\\images\\{}', '/home/me/data/images/{}', '../images/{}', './images/{}'],
)
def test_paths_of_another_machine_are_found_by_their_ends(listed, tmp_path):
    names = images(tmp_path / 'data/images', *numbered(4))
    write(tmp_path / 'data/a.json', coco([listed.format(name) for name in names]))
    found = ready(tmp_path / 'data', tmp_path)
    train = annotations(found.splits['train'])
    for image in train['images']:
        assert (found.splits['train'].images / image['file_name']).is_file()


def test_an_image_of_several_that_may_be_meant_is_not_guessed(tmp_path):
    names = images(tmp_path / 'data/a', *numbered(3))
    images(tmp_path / 'data/b', *names)
    write(tmp_path / 'data/x.json', coco([f'/elsewhere/{name}' for name in names]))
    with pytest.raises(ValueError, match='x.json is left aside: none of its 3 images'):
        find_data(tmp_path / 'data')


def test_names_that_lead_out_are_not_followed(tmp_path):
    images(tmp_path, 'secret.jpg')
    names = images(tmp_path / 'data', *numbered(3))
    write(tmp_path / 'data/x.json', coco([*names, '../secret.jpg', str(tmp_path / 'secret.jpg')]))
    found = ready(tmp_path / 'data', tmp_path)
    listed = [
        i['file_name'] for split in found.splits.values() for i in annotations(split)['images']
    ]
    assert sorted(listed) == names


def test_a_byte_order_mark_and_numbers_that_the_evaluation_misreads(tmp_path):
    names = images(tmp_path / 'data', *numbered(4))
    content = coco(names, start=0)
    (tmp_path / 'data/x.json').write_text('\ufeff' + json.dumps(content))
    found = find_data(tmp_path / 'data')
    assert 'byte order mark' in found.convert
    found = prepare(found, tmp_path / 'ready')
    ids = [
        entry['id']
        for split in found.splits.values()
        for entry in annotations(split)['annotations']
    ]
    assert sorted(ids) == [1, 2, 3, 4]


def test_categories_of_one_name_become_one(tmp_path):
    names = images(tmp_path / 'data', *numbered(4))
    write(tmp_path / 'data/x.json', coco(names, categories=('cat', 'cat')))
    found = ready(tmp_path / 'data', tmp_path)
    assert found.classes == ('cat',)
    assert {
        entry['category_id'] for entry in annotations(found.splits['train'])['annotations']
    } == {1}


def test_a_group_that_has_objects_is_a_class(tmp_path):
    folder = folders.roboflow_coco(tmp_path / 'data')
    path = folder / 'train/_annotations.coco.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['category_id'] = 0
    write(path, content)
    assert find_data(folder).classes == ('animals', 'cat', 'dog')


def test_what_is_no_annotation_file_of_objects_is_left_aside_with_the_reason(tmp_path):
    folder = folders.one_json(tmp_path / 'data')
    write(folder / 'broken.json', '{"images": [')
    write(folder / 'deep.json', '[' * 100_000)
    write(folder / 'long.json', '{"images": [' + '9' * 5000 + ']}')
    write(folder / 'other.json', dict(version=1))
    write(folder / 'list.json', [1, 2])
    write(folder / 'empty.json', coco(['000001.jpg']) | dict(annotations=[]))
    write(folder / 'captions.json', coco(['000001.jpg'], caption='a cat'))
    write(folder / 'panoptic.json', coco(['000001.jpg'], segments_info=[]))
    found = find_data(folder)
    assert found.splits['train'].annotations == folder / 'annotations.json'
    notes = '\n'.join(found.notes)
    for name, reason in {
        'broken': 'cannot be read as JSON',
        'deep': 'cannot be read as JSON',
        'long': 'cannot be read as JSON',
        'other': 'lists no images and categories',
        'list': 'has no object at its top',
        'empty': 'has no annotations',
        'captions': 'has captions instead of objects',
        'panoptic': 'is panoptic',
    }.items():
        assert f'{name}.json is left aside: it {reason}' in notes


def test_entries_of_any_type_are_survived(tmp_path):
    names = images(tmp_path / 'data', *numbered(4))
    content = coco(names)
    content['images'] += [None, 5, dict(id=[1], file_name='000001.jpg'), dict(id=9, file_name=4)]
    content['categories'] += ['cat', dict(id={}, name='x'), dict(id=7, name=None)]
    content['categories'][0]['supercategory'] = ['animal']
    content['annotations'] += [
        *(3, dict(id=5), dict(id=6, image_id=[1], category_id=1)),
        dict(id=7, image_id=1, category_id=1, bbox=['a', None, [], {}]),
        dict(id=8, image_id=1, category_id=1, bbox=[1e308, 0, 1e308, 1e308]),
        dict(id=9, image_id=1, category_id=1, bbox=[0, 0, 10**400, 1]),
    ]
    write(tmp_path / 'data/x.json', content)
    found = find_data(tmp_path / 'data')
    assert found.classes == ('cat', 'dog') and found.splits['train'].number == 4
    assert found.statistics.object_size == pytest.approx(80**0.5, abs=0.1)


def test_a_file_that_names_no_part_beside_one_that_does_is_left_aside(tmp_path):
    folder = folders.json_per_split(tmp_path / 'data')
    write(folder / 'more.json', coco(numbered(4, '.png')))
    found = find_data(folder)
    assert found.splits['train'].annotations == folder / 'train.json'
    assert any('more.json is left aside' in note for note in found.notes)


def test_of_two_files_for_one_part_the_larger_is_taken(tmp_path):
    folder = folders.cvat_coco(tmp_path / 'data')
    write(folder / 'annotations/instances_task7.json', coco(['frame_000000.PNG']))
    found = find_data(folder)
    assert found.splits['train'].number == 6
    assert any('instances_task7.json is left aside' in note for note in found.notes)


def test_labelmes_files_are_not_read_one_by_one(tmp_path):
    for name in images(tmp_path / 'data', *numbered(3)):
        write(tmp_path / 'data' / name.replace('jpg', 'json'), dict(shapes=[], imagePath=name))
    with pytest.raises(ValueError, match='found 3 images, 3 JSON files') as error:
        find_data(tmp_path / 'data')
    assert 'left aside' not in str(error.value)


def test_sizes_of_objects(tmp_path):
    names = images(tmp_path / 'data', *numbered(2))
    content = coco(names)
    content['annotations'] += [
        dict(content['annotations'][0], id=10 + n, bbox=[0, 0, 2, 2], iscrowd=n == 0)
        for n in range(5)
    ]
    write(tmp_path / 'data/x.json', content)
    statistics = find_data(tmp_path / 'data').statistics
    assert statistics.object_size == 2 and statistics.small_object_size == 2
    assert statistics.objects_per_image == 6
