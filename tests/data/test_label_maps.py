"""Label maps whose names and values are not quite as mmseg reads them."""

import numpy as np
import pytest
from PIL import Image
from support import folders
from support.datasets import check_files, draw
from support.folders import COLORS, color_map, label_map, labels, pairs, write

import convnext_backbones.engine.label_transforms  # noqa: F401, registers a transform
from convnext_backbones.data.find import find_data
from convnext_backbones.data.prepare import prepare

NAMES = ('a.jpg', 'b.jpg', 'c.jpg', 'd.jpg')


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'data'


def simple(folder, *values, names=NAMES, **options):
    pairs(folder / 'images', folder / 'labels', names, *values, **options)
    return folder


def ready(folder):
    return prepare(find_data(folder), folder.with_name('ready'))


def trained(found) -> set[int]:
    """The labels in all parts, as a model gets them."""
    return {label for dataset in folders.build(found).values() for label in labels(dataset)}


def is_clean(found) -> bool:
    return check_files(folders.config(found)) == []


# --- what values mean -----------------------------------------------------------------------


def test_names_of_as_many_values_keep_zero_as_a_class(folder):
    write(simple(folder, 0, 1, 2) / 'classes.txt', 'background\ncat\ndog\n')
    found = ready(folder)
    assert found.classes == ('background', 'cat', 'dog')
    assert not found.reduce_zero_label and trained(found) == {0, 1, 2} and is_clean(found)


def test_one_value_more_than_names_is_the_users_to_decide(folder):
    names = write(simple(folder, 0, 1, 2) / 'classes.txt', 'cat\ndog\n')
    with pytest.raises(ValueError, match='values 0 to 2, of which either 0 or 2 is no class'):
        find_data(folder)
    names.write_text('unlabeled\ncat\ndog\n')
    found = find_data(folder)
    assert found.reduce_zero_label and found.classes == ('cat', 'dog')
    names.write_text('cat\ndog\nvoid\n')
    found = find_data(folder)
    assert found.ignore_labels == (2,) and found.classes == ('cat', 'dog')


def test_values_from_one_on_need_no_decision(folder):
    write(simple(folder, 1, 2) / 'classes.txt', 'cat\ndog\n')
    found = ready(folder)
    assert found.reduce_zero_label and trained(found) == {0, 1}


def test_names_of_all_values_win_over_the_layout_of_ade20k(tmp_path):
    folder = folders.like_ade20k(tmp_path / 'data')
    write(folder / 'classes.txt', 'sky\nroad\ntree\ncar\n')
    found = find_data(folder)
    assert not found.reduce_zero_label and found.classes[0] == 'sky' and is_clean(found)


@pytest.mark.parametrize('zero', ['void', 'Unlabeled', 'ignore'])
def test_a_zero_that_is_named_void_is_unlabeled(zero, folder):
    write(simple(folder, 0, 1, 2) / 'classes.txt', f'{zero}\ncat\ndog\n')
    found = ready(folder)
    assert found.classes == ('cat', 'dog') and found.reduce_zero_label
    assert trained(found) == {0, 1, 255} and is_clean(found)


def test_void_first_and_last(folder):
    write(simple(folder, 0, 1, 2, 3, 255) / 'classes.txt', 'void\ncat\ndog\nunknown\n')
    found = ready(folder)
    assert found.classes == ('cat', 'dog') and found.ignore_labels == (3,)
    assert trained(found) == {0, 1, 255} and is_clean(found)


def test_void_between_classes_is_written_anew(folder):
    write(simple(folder, 0, 1, 2) / 'classes.txt', 'cat\nvoid\ndog\n')
    found = find_data(folder)
    assert found.classes == ('cat', 'dog') and 'between the classes' in found.convert
    found = ready(folder)
    assert trained(found) == {0, 1, 255} and is_clean(found)


def test_values_beyond_the_names_are_ignored_and_said(folder):
    write(simple(folder, 0, 1, 7) / 'classes.txt', 'cat\ndog\n')
    found = ready(folder)
    assert found.ignore_labels == (7,) and trained(found) == {0, 1, 255}
    assert any('does not name are ignored: 7' in note for note in found.notes)


def test_background_is_a_class(folder):
    write(simple(folder, 0, 1) / 'classes.txt', 'background\ncat\n')
    assert find_data(folder).classes == ('background', 'cat')


@pytest.mark.parametrize(
    ('file', 'text'),
    [
        ('classes.txt', '0: ground\n1: cat\n2: dog\n'),
        ('class_names.txt', 'ground\ncat\ndog'),
        ('classes.json', '["ground", "cat", "dog"]'),
        ('label_map.json', '{"0": "ground", "1": "cat", "2": "dog"}'),
        ('labels.json', '{"ground": 0, "cat": 1, "dog": 2}'),
        (
            'dataset_info.json',
            '{"classes": [{"name": "ground"}, {"name": "cat"}, {"name": "dog"}]}',
        ),
        ('data.yaml', 'names: [ground, cat, dog]'),
        ('class_dict.csv', 'name, r, g, b\nground,0,0,0\ncat,9,9,9\ndog,8,8,8\n'),
        ('labels.csv', 'id,name\n2,dog\n0,ground\n1,cat\n'),
        ('label_colors.txt', '0 0 0\tground\n9 9 9 cat\n8 8 8 dog'),
    ],
)
def test_files_of_names(file, text, folder):
    write(simple(folder, 0, 1, 2) / file, text)
    assert find_data(folder).classes == ('ground', 'cat', 'dog')


@pytest.mark.parametrize(
    ('file', 'text'),
    [
        ('classes.json', '[' * 100_000),
        ('classes.json', '{"0": ["cat"]}'),
        ('data.yaml', 'names: !!python/name:os.system'),
        ('data.yaml', 'a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]'),
        ('data.yaml', '[' * 600),
        ('class_dict.csv', 'name,r,g,b\n' + 'x' * 200_000 + ',1,2,3\n'),
        ('classes.txt', 'x' * 2_000_000),
        ('labelmap.txt', ':::\n'),
    ],
)
def test_files_of_names_that_are_none_do_no_harm(file, text, folder):
    write(simple(folder, 0, 1) / file, text)
    found = find_data(folder)
    assert len(found.classes) in (1, 2)


def test_no_label_map_has_a_zero(folder):
    found = ready(simple(folder, 1, 2, 3, 255))
    assert found.classes == ('class 1', 'class 2', 'class 3') and found.reduce_zero_label
    assert trained(found) == {0, 1, 2, 255} and is_clean(found)


def test_values_far_apart_are_numbered(folder):
    found = ready(simple(folder, 0, 50, 100, 200))
    assert found.classes == ('class 0', 'class 50', 'class 100', 'class 200')
    assert trained(found) == {0, 1, 2, 3} and is_clean(found)


@pytest.mark.parametrize('dtype', [bool, np.uint16])
def test_numbers_of_other_types(dtype, folder):
    found = ready(simple(folder, 0, 1, dtype=dtype))
    assert found.classes == ('class 0', 'class 1')
    assert trained(found) == {0, 1} and is_clean(found)


def test_instances_are_refused(folder):
    simple(folder, *range(0, 900, 3), dtype=np.uint16)
    with pytest.raises(ValueError, match='have 299 values, as instances or depths have'):
        find_data(folder)


# --- colors ---------------------------------------------------------------------------------


def colored(folder, *colors, suffix='.png', names=NAMES):
    for name in names:
        draw(folder / 'images' / name)
        color_map(folder / 'labels' / f'{name[:-4]}{suffix}', *colors)
    return folder


def test_colors_without_names(folder):
    found = ready(colored(folder, *COLORS))
    assert found.classes == ('rgb 0 0 0', 'rgb 0 128 0', 'rgb 128 0 0', 'rgb 128 128 0')
    assert sorted(found.palette) == sorted(COLORS)
    assert trained(found) == {0, 1, 2, 3} and is_clean(found)


def test_colors_that_no_file_names_become_unlabeled(folder):
    write(colored(folder, *COLORS) / 'class_dict.csv', 'name,r,g,b\ncat,128,0,0\ndog,0,128,0\n')
    found = find_data(folder)
    assert any('rgb 128 128 0' in note for note in found.notes)
    found = ready(folder)
    assert found.classes == ('cat', 'dog') and found.palette == COLORS[1:3]
    assert trained(found) == {0, 1, 255} and is_clean(found)
    label = np.array(Image.open(found.splits['train'].annotations / 'a.png'))
    assert label[0, :4].tolist() == [255, 0, 1, 255]


def test_blurred_colors_are_refused(folder):
    rng = np.random.default_rng(0)
    colored(folder, *map(tuple, rng.integers(0, 256, (200, 3)).tolist()))
    with pytest.raises(ValueError, match='more than 64 colors'):
        find_data(folder)


def test_jpeg_files_are_no_label_maps(folder):
    colored(folder, *COLORS, suffix='.jpg')
    with pytest.raises(ValueError, match='labels has JPEG files only.*save label maps as PNG'):
        find_data(folder)


def test_three_equal_channels_are_numbers(folder):
    found = ready(colored(folder, (0, 0, 0), (1, 1, 1), (2, 2, 2)))
    assert found.classes == ('class 0', 'class 1', 'class 2')
    assert trained(found) == {0, 1, 2} and is_clean(found)


def test_black_and_white_in_color(folder):
    found = ready(colored(folder, (0, 0, 0), (255, 255, 255)))
    assert found.classes == ('background', 'foreground')
    assert trained(found) == {0, 1} and is_clean(found)


def test_a_palette_in_another_order_than_the_names(folder):
    write(
        simple(folder, 0, 1, 2, palette=[COLORS[0], COLORS[2], COLORS[1]]) / 'labelmap.txt',
        '# label:color_rgb:parts:actions\nground:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n',
    )
    found = ready(folder)
    assert found.classes == ('ground', 'cat', 'dog') and trained(found) == {0, 1, 2}
    label = np.array(Image.open(found.splits['train'].annotations / 'a.png'))
    assert label[0, :3].tolist() == [0, 2, 1]


def test_palettes_that_differ_between_files_are_read_as_colors(folder):
    simple(folder, 0, 1, palette=COLORS[:2])
    label_map(folder / 'labels/b.png', 1, 0, palette=[COLORS[1], COLORS[0]])
    found = ready(folder)
    assert found.classes == ('rgb 0 0 0', 'rgb 128 0 0')
    for name in 'ab':
        label = np.array(Image.open(folder.with_name('ready') / f'labels/{name}.png'))
        assert label[0, :2].tolist() == [0, 1]


# --- which files belong together --------------------------------------------------------------


@pytest.mark.parametrize(
    ('image', 'label'),
    [
        ('{}.jpg', '{}.png'),
        ('{}_sat.jpg', '{}_mask.png'),
        ('{}.jpg', '{}_L.png'),
        ('{}.png', '{}_train_id.png'),
        ('image_{}.jpg', 'mask_{}.png'),
        ('{}.JPG', '{}.bmp'),
    ],
)
def test_names_that_agree(image, label, folder):
    for number in (1, 2, 10, 11):
        draw(folder / 'images' / image.format(number))
        label_map(folder / 'masks' / label.format(number), number % 2)
    found = ready(folder)
    assert sum(split.number for split in found.splits.values()) == 4
    for dataset in folders.build(found).values():
        for item in dataset:
            number = int(''.join(filter(str.isdecimal, item['img_path'].rpartition('/')[2])))
            assert set(np.unique(item['gt_seg_map'])) == {number % 2}


def test_numbers_that_do_not_agree_are_not_matched(folder):
    for number in range(4):
        draw(folder / f'images/{number:03}.jpg')
        label_map(folder / f'masks/{number + 100:03}.png', 0, 1)
    with pytest.raises(ValueError, match='masks has no images with the names of its 4'):
        find_data(folder)


def test_images_and_maps_without_the_other_are_left_out(folder):
    simple(folder, 0, 1)
    draw(folder / 'images/alone.jpg')
    label_map(folder / 'labels/lonely.png', 0)
    found = find_data(folder)
    notes = '\n'.join(found.notes)
    assert 'alone.jpg' in notes and 'lonely.png' in notes and 'have to be listed' in found.convert
    assert is_clean(ready(folder))


def test_images_of_several_formats(folder):
    simple(folder, 0, 1, names=('a.jpg', 'b.png', 'c.JPG', 'd.jpeg'))
    found = ready(folder)
    assert sum(map(len, folders.build(found).values())) == 4 and is_clean(found)


def test_folders_below_the_parts(folder):
    for split, city in (('train', 'x'), ('train', 'y'), ('val', 'z')):
        names = [f'{city}{n}.jpg' for n in range(3)]
        pairs(folder / 'img_dir' / split / city, folder / 'ann_dir' / split / city, names, 0, 1)
    found = find_data(folder)
    assert {name: split.number for name, split in found.splits.items()} == dict(train=6, val=3)
    assert not found.convert and is_clean(found)


def test_a_folder_of_images_below_one_with_the_name_of_label_maps(folder):
    pairs(folder / 'masks/images', folder / 'masks/labels', NAMES, 0, 1)
    found = find_data(folder)
    assert (
        found.splits['train'].images == folder / 'masks/images'
        and found.splits['train'].number == 4
    )


def test_a_list_of_images_names_no_classes(folder):
    write(simple(folder, 0, 1) / 'labels.txt', 'images/a.jpg cat\nimages/b.jpg dog\n')
    assert find_data(folder).classes == ('class 0', 'class 1')


def test_lists_with_names_that_are_not_there(tmp_path):
    folder = folders.voc_maps(tmp_path / 'data')
    path = folder / 'ImageSets/Segmentation/train.txt'
    path.write_text(path.read_text() + '2009_000009\n')
    found = find_data(folder)
    assert any('1 name of ImageSets/Segmentation/train.txt' in note for note in found.notes)
    assert found.splits['train'].number == 4 and is_clean_but_absent(ready(folder))


def is_clean_but_absent(found) -> bool:
    findings = check_files(folders.config(found))
    return all(finding.what.startswith('classes without a ') for finding in findings)


def test_cityscapes_with_train_ids_is_read_as_it_is(tmp_path):
    found = find_data(folders.cityscapes(tmp_path / 'data', kind='TrainIds'))
    assert found.label_suffix == '_gtFine_labelTrainIds.png' and not found.convert
    assert trained(prepare(found, tmp_path / 'ready')) == {0, 1, 2, 18, 255}


def test_cityscapes_ids_become_those_that_are_trained(tmp_path):
    found = ready(folders.cityscapes(tmp_path / 'data'))
    assert trained(found) == {0, 1, 2, 18, 255}
    assert not any('no class has' in note for note in found.notes)


def test_voc_with_both_kinds_is_asked_for_by_task(tmp_path):
    folder = folders.voc2012(tmp_path / 'data')
    assert any('Left aside: 6 images for segmentation' in n for n in find_data(folder).notes)
    found = find_data(folder, task='segmentation')
    assert found.layout == 'VOC' and len(found.classes) == 21 and len(found.palette) == 21


def test_a_task_that_is_not_there_is_refused(tmp_path):
    folder = folders.camvid(tmp_path / 'data')
    with pytest.raises(ValueError, match='expected data for detection in .* found data for segm'):
        find_data(folder, task='detection')


def test_unreadable_maps_and_images_are_said(folder):
    simple(folder, 0, 1)
    (folder / 'labels/b.png').write_bytes(b'no image')
    (folder / 'images/b.jpg').write_bytes(b'no image')
    notes = '\n'.join(find_data(folder).notes)
    assert "labels/b.png'" in notes and "images/b.jpg'" in notes


def test_a_coco_file_beside_label_maps_is_taken_and_the_rest_said(tmp_path):
    folder = folders.one_json(tmp_path / 'data')
    simple(folder / 'more', 0, 1)
    found = find_data(folder)
    assert found.layout == 'COCO'
    assert any('Left aside: 4 images for segmentation' in note for note in found.notes)


def test_nothing_at_all(tmp_path):
    (tmp_path / 'data').mkdir()
    with pytest.raises(
        ValueError, match='found 0 images, 0 JSON files.*none of: JSON files in COCO'
    ):
        find_data(tmp_path / 'data')
    with pytest.raises(FileNotFoundError, match='expected a folder of data, found none at'):
        find_data(tmp_path / 'other')
    draw(tmp_path / 'data/a.jpg')
    with pytest.raises(ValueError, match='found 1 image, 0 JSON files'):
        find_data(tmp_path / 'data')


def test_maps_that_cannot_be_read_are_left_out_of_what_is_written(folder):
    simple(folder, 0, 255)
    (folder / 'labels/c.png').write_bytes(b'no image')
    found = ready(folder)
    assert sum(split.number for split in found.splits.values()) == 3 and is_clean(found)
    assert any('Left out, as they cannot be read: 1 label map' in note for note in found.notes)
