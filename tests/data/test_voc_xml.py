"""XML files of Pascal VOC, as they are and as they should not be."""

import json

import pytest
from support import folders
from support.datasets import draw
from support.folders import write, xml, xml_object

from convnext_backbones.data.find import find_data
from convnext_backbones.data.prepare import prepare
from convnext_backbones.data.voc_xml import read_xml

BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "xxxxxxxxxx">'
    '<!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">]><annotation>&y;</annotation>'
)
ENTITY = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation><filename>&x;</filename>'
    '</annotation>'
)


@pytest.fixture
def folder(tmp_path):
    return folders.voc_xml(tmp_path / 'data')


def converted(folder, split='train') -> dict:
    found = prepare(find_data(folder), folder.with_name('ready'))
    return json.loads(found.splits[split].annotations.read_text())


def test_boxes_count_from_one_and_include_the_last_pixel(folder):
    content = converted(folder)
    first, second = content['annotations'][:2]
    assert first['bbox'] == [0, 0, 10, 20] and first['area'] == 200 and first['iscrowd'] == 0
    assert first['category_id'] == 1
    # difficult, and cut to the image, which is 40 x 30
    assert second['bbox'] == [4, 4, 26, 26] and second['iscrowd'] == 1


def test_boxes_that_begin_at_zero_count_from_zero(tmp_path):
    folder = folders.roboflow_xml(tmp_path / 'data')
    first, second = converted(folder)['annotations'][:2]
    assert first['bbox'] == [0, 0, 10, 20] and second['bbox'] == [1, 1, 9, 19]


def test_difficult_objects_are_said(folder):
    assert any('Marked difficult: 6 objects of 12.' in note for note in find_data(folder).notes)


def test_parts_of_objects_are_no_objects(folder):
    assert find_data(folder).classes == ('cat', 'dog')


def test_lists_of_classes_are_no_parts(folder):
    for path in (folder / 'ImageSets/Main').glob('*.txt'):
        if path.stem not in ('cat_train', 'cat_val'):
            path.unlink()
    found = find_data(folder)
    assert {name: part.number for name, part in found.splits.items()} == dict(train=6)


def test_a_name_without_a_file_is_said(folder):
    path = folder / 'ImageSets/Main/val.txt'
    path.write_text(path.read_text() + 'nothing\n')
    assert any('1 name of ImageSets/Main/val.txt' in note for note in find_data(folder).notes)


def test_xml_without_an_image_and_images_without_xml(folder):
    write(folder / 'Annotations/alone.xml', xml('alone.jpg', xml_object('bird')))
    draw(folder / 'JPEGImages/lonely.jpg')
    found = find_data(folder)
    assert found.classes == ('cat', 'dog')
    assert any('alone.xml' in note for note in found.notes)
    assert sum(part.number for part in found.splits.values()) == 6


def test_the_image_is_found_by_the_name_in_the_file(tmp_path):
    for number in range(3):
        draw(tmp_path / f'data/pictures/{number}.jpg')
        text = xml(f'C:\\me\\{number}.jpg', xml_object('cat'))
        write(tmp_path / f'data/xml/annotation-{number}.xml', text)
    assert find_data(tmp_path / 'data').splits['train'].number == 3


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (BOMB, 'declares a document type'),
        (ENTITY, 'declares a document type'),
        ('<a>' * 100, 'nested too deeply'),
        ('<annotation>', 'is no XML'),
        ('', 'is no XML'),
        ('x' * 11_000_000, 'more than 10,000,000 bytes'),
        ('<?xml version="1.0" encoding="nothing"?><a/>', 'is no XML'),
    ],
)
def test_xml_that_could_do_harm_is_refused(text, message, tmp_path):
    path = write(tmp_path / 'a.xml', text)
    with pytest.raises(ValueError, match=message):
        read_xml(path)


def test_entities_in_another_encoding_are_refused(tmp_path):
    path = tmp_path / 'a.xml'
    path.write_bytes(BOMB.replace('?>', ' encoding="utf-16"?>', 1).encode('utf-16'))
    with pytest.raises(ValueError, match='declares a document type'):
        read_xml(path)


def test_files_that_are_none_of_voc_are_said(folder):
    write(folder / 'Annotations/bomb.xml', BOMB)
    write(folder / 'config.xml', '<settings/>')
    notes = '\n'.join(find_data(folder).notes)
    assert 'no annotations of VOC: 2 XML files of 8: ' in notes


@pytest.mark.parametrize(
    'object_text',
    [
        '<object/>',
        '<object><name>cat</name></object>',
        '<object><name>cat</name><bndbox><xmin>a</xmin></bndbox></object>',
        xml_object('', (1, 1, 5, 5)),
        xml_object('cat', ('nan', 1, 5, 5)),
        xml_object('cat', (1, 1, '1e300', 5)),
        xml_object('cat', (100, 100, 200, 200)),
        xml_object('cat', (20, 20, 10, 10)),
    ],
)
def test_objects_that_are_none_are_left_out(object_text, folder):
    write(folder / 'Annotations/2007_000000.xml', xml('x.jpg', object_text, xml_object('dog')))
    content = converted(folder)
    names = {category['id']: category['name'] for category in content['categories']}
    number = next(i['id'] for i in content['images'] if '000000' in i['file_name'])
    own = [entry for entry in content['annotations'] if entry['image_id'] == number]
    assert [names[entry['category_id']] for entry in own] == ['dog']


def test_no_objects_at_all(tmp_path):
    draw(tmp_path / 'data/a.jpg')
    write(tmp_path / 'data/a.xml', xml('a.jpg'))
    with pytest.raises(ValueError, match='XML files of VOC have no objects'):
        find_data(tmp_path / 'data')
