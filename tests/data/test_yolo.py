"""Text files of YOLO, as they are and as they should not be."""

import json

import pytest
from PIL import Image
from support import folders
from support.datasets import HEIGHT, WIDTH
from support.folders import images, write

from convnext_backbones.data.find import find_data
from convnext_backbones.data.prepare import prepare


@pytest.fixture
def folder(tmp_path):
    return folders.yolo(tmp_path / 'data')


def converted(folder) -> tuple[dict, str]:
    """The content of the training file, and the notes."""
    found = prepare(find_data(folder), folder.with_name('ready'))
    return json.loads(found.splits['train'].annotations.read_text()), '\n'.join(found.notes)


def label(folder, text: str) -> None:
    write(folder / 'labels/train/train0.txt', text)


def first(content) -> list[dict]:
    number = next(i['id'] for i in content['images'] if i['file_name'] == 'train0.jpg')
    return [entry for entry in content['annotations'] if entry['image_id'] == number]


def test_a_box(folder):
    label(folder, '1 0.5 0.5 0.25 0.4\n')
    content, _ = converted(folder)
    (entry,) = first(content)
    assert entry['bbox'] == [15, 9, 10, 12] and entry['area'] == 120
    assert entry['category_id'] == 2 and entry['iscrowd'] == 0 and 'segmentation' not in entry
    assert content['categories'] == [dict(id=1, name='cat'), dict(id=2, name='dog')]
    assert content['images'][0]['width'] == WIDTH and content['images'][0]['height'] == HEIGHT


def test_a_polygon(folder):
    label(folder, '0 0.1 0.1 0.6 0.1 0.1 0.8')
    (entry,) = first(converted(folder)[0])
    assert entry['segmentation'] == [[4, 3, 24, 3, 4, 24]]
    assert entry['bbox'] == [4, 3, 20, 21] and entry['area'] == 210


def test_boxes_and_polygons_together_have_no_masks(folder):
    label(folder, '0 0.1 0.1 0.6 0.1 0.1 0.8\n0 0.5 0.5 0.2 0.2')
    found = prepare(find_data(folder), folder.with_name('ready'))
    assert not found.has_masks


def test_what_reaches_beyond_the_image_is_cut(folder):
    label(folder, '0 0.05 0.5 0.2 0.2')
    (entry,) = first(converted(folder)[0])
    assert entry['bbox'] == [0, 12, 6, 6]


@pytest.mark.parametrize(
    ('row', 'reason'),
    [
        ('0 1.5 0.5 0.2 0.2', 'coordinates outside of 0 to 1'),
        ('0 320 240 20 20', 'coordinates outside of 0 to 1'),
        ('2 0.5 0.5 0.2 0.2', 'of a class beyond the 2 that are named'),
        ('0 0.5 0.5 0.001 0.001', 'below one pixel'),
        ('cat 0.5 0.5 0.2 0.2', 'no numbers of a class and coordinates'),
        ('-1 0.5 0.5 0.2 0.2', 'no numbers of a class and coordinates'),
        ('0 nan 0.5 0.2 0.2', 'no numbers of a class and coordinates'),
        ('0 0.5 0.5', 'no numbers of a class and coordinates'),
        ('0 0.5 0.5 0.2 0.2 0.9', 'half a point, or a score'),
        ('0 0.1 0.1 0.5 0.5 0.9 0.9', 'below one pixel'),
        ('1 0.5 0.5 0.25 0.4\n1 0.5 0.5 0.25 0.4', 'twice'),
    ],
)
def test_rows_that_are_no_objects_are_counted(row, reason, folder):
    label(folder, f'1 0.5 0.5 0.25 0.4\n{row}\n')
    content, notes = converted(folder)
    assert len(first(content)) == 1
    assert any(reason in note and 'Left out' in note for note in notes.splitlines())


def test_an_image_without_a_text_file_or_with_an_empty_one_has_no_objects(folder):
    label(folder, '\n')
    content, notes = converted(folder)
    assert len(content['images']) == 4 and not first(content)
    assert 'count as images without objects: 2 of 8' in notes


def test_images_that_cannot_be_read_are_left_out(folder):
    (folder / 'images/train/train1.jpg').write_bytes(b'no image')
    content, notes = converted(folder)
    assert [image['file_name'][5] for image in content['images']] == ['0', '2', '3']
    assert 'Left out: 1 image(s) that cannot be read.' in notes


def test_key_points_are_left_out(folder):
    yaml = (folder / 'data.yaml').read_text() + 'kpt_shape: [2, 3]\n'
    write(folder / 'data.yaml', yaml)
    label(folder, '1 0.5 0.5 0.25 0.4 0.1 0.1 2 0.9 0.9 2')
    content, notes = converted(folder)
    assert first(content)[0]['bbox'] == [15, 9, 10, 12] and 'key points are left out' in notes


def test_exif_turns_an_image_as_yolo_does(folder):
    path = folder / 'images/train/train0.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    label(folder, '0 0.5 0.5 1 1')
    (entry,) = first(converted(folder)[0])
    assert entry['bbox'] == [0, 0, HEIGHT, WIDTH]


@pytest.mark.parametrize(
    'text',
    [
        'train: {root}/images/train\nval: {root}/images/val\nnames: [cat, dog]',
        'path: {root}\ntrain: images/train\nval: images/val\nnames: [cat, dog]',
        'path: /content/datasets/data\ntrain: /content/images/train\nval: images/val\n'
        'names: {{0: cat, 1: dog}}',
        'train: [images/train]\nvalid: ./images/val/\nnc: 2\nnames: [cat, dog]',
        'train: ..\\images\\train\nval: ..\\images\\val\nnames: [cat, dog]',
    ],
)
def test_ways_to_name_folders(text, folder):
    write(folder / 'data.yaml', text.format(root=folder))
    found = find_data(folder)
    assert {name: part.images for name, part in found.splits.items()} == {
        name: folder / 'images' / name for name in ('train', 'val')
    }


def test_nothing_outside_is_read(folder):
    other = folders.yolo(folder.with_name('other'))
    write(folder / 'data.yaml', f'train: {other}/images/secret\nval: ../other\nnames: [a]\n')
    images(other / 'images/secret', 'x.jpg')
    with pytest.raises(ValueError) as error:
        find_data(folder.with_name('other') / 'labels')
    assert 'found 0 images' in str(error.value)
    found = find_data(folder)
    assert all(part.images.is_relative_to(folder) for part in found.splits.values())


@pytest.mark.parametrize(
    'names', ['', 'names: [*x]', 'names: 5', 'names: {a: b}', 'names: [[1], {b: c}]']
)
def test_names_that_are_none(names, folder):
    write(folder / 'data.yaml', f'train: images/train\nval: images/val\n{names}\n')
    assert len(find_data(folder).classes) == 2


def test_names_that_are_not_unique_get_their_numbers(folder):
    write(folder / 'data.yaml', 'train: images/train\nval: images/val\nnames: [cat, cat]')
    assert find_data(folder).classes == ('cat 0', 'cat 1')


@pytest.mark.parametrize(
    'text',
    ['a: !!python/object/apply:os.system ["touch executed"]', '[' * 600, 'x: ' + 'y' * 2_000_000],
)
def test_yaml_that_is_not_data_is_left_aside(text, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write(folder / 'aaa.yaml', text)
    notes = '\n'.join(find_data(folder).notes)
    assert 'aaa.yaml is left aside: it cannot be read' in notes
    assert not (tmp_path / 'executed').exists()


def test_a_part_that_is_not_there_is_said(folder):
    write(folder / 'data.yaml', 'train: images/train\nval: images/valid\nnames: [cat, dog]')
    notes = '\n'.join(find_data(folder).notes)
    assert "no images at val: 'images/valid'" in notes


def test_text_files_of_something_else_are_none_of_yolo(tmp_path):
    names = images(tmp_path / 'data', 'a.jpg', 'b.jpg')
    for name in names:
        write(tmp_path / 'data' / name.replace('jpg', 'txt'), 'a photo of a cat\n')
    with pytest.raises(ValueError, match='found 2 images, 0 JSON files, 0 XML files, 2 text files'):
        find_data(tmp_path / 'data')
