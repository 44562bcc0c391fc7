"""Sizes, channels and depth from headers, and how folders are listed."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from support.datasets import draw

from convnext_backbones.data.sizes import Header, measure, read_header
from convnext_backbones.data.tree import Tree, split_of, spread, stem, suffix


def image(path, *shape, dtype=np.uint8):
    assert cv2.imwrite(str(path), np.zeros(shape, dtype))
    return path


@pytest.mark.parametrize(
    ('suffix', 'shape', 'dtype', 'channels'),
    [
        ('.jpg', (30, 40, 3), np.uint8, 3),
        ('.jpg', (30, 40), np.uint8, 1),
        ('.png', (30, 40, 3), np.uint8, 3),
        ('.png', (30, 40, 4), np.uint8, 3),  # alpha is not trained on
        ('.png', (30, 40), np.uint16, 1),
        ('.png', (30, 40, 3), np.uint16, 3),
        ('.tif', (30, 40), np.uint8, 1),
        ('.tif', (30, 40, 3), np.uint8, 3),
        ('.tif', (30, 40, 4), np.uint8, 4),
        ('.tif', (30, 40, 4), np.uint16, 4),
        ('.tif', (30, 40), np.float32, 1),
        ('.bmp', (30, 40, 3), np.uint8, 3),
        ('.webp', (30, 40, 3), np.uint8, 3),
    ],
)
def test_headers(suffix, shape, dtype, channels, tmp_path):
    path = image(tmp_path / f'a{suffix}', *shape, dtype=dtype)
    assert read_header(path) == Header(40, 30, channels, np.dtype(dtype).name)


@pytest.mark.parametrize('turn', range(1, 9))
def test_a_quarter_turn_swaps_the_sides_as_loading_does(turn, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.new('RGB', (40, 30)).save(tmp_path / 'a.jpg', exif=exif)
    header = read_header(tmp_path / 'a.jpg')
    assert (header.height, header.width) == cv2.imread(str(tmp_path / 'a.jpg')).shape[:2]


def test_five_channels_and_large_files_of_tiff(tmp_path):
    """A TIFF that Pillow refuses, in both byte orders and both sizes of numbers."""
    for order, magic in ((b'II', b'*\0'), (b'MM', b'\0*'), (b'II', b'+\0'), (b'MM', b'\0+')):
        code, big = '<' if order == b'II' else '>', magic.strip(b'\0') == b'+'
        head = struct.pack(code + 'HHQ', 8, 0, 16) if big else struct.pack(code + 'I', 8)
        number, entry = ('Q', 'HHQ') if big else ('H', 'HHI')
        tags = [(256, 40), (257, 30), (258, 16), (277, 5)]
        body = struct.pack(code + number, len(tags)) + b''.join(
            struct.pack(code + entry, tag, 3, 1)
            + struct.pack(code + 'H', value).ljust(8 if big else 4, b'\0')
            for tag, value in tags
        )
        (tmp_path / 'a.tif').write_bytes(order + magic + head + body)
        assert read_header(tmp_path / 'a.tif') == Header(40, 30, 5, 'uint16')


@pytest.mark.parametrize(
    'content',
    [b'', b'no image', b'II*\0', b'II*\0\xff\xff\xff\xff', b'\x89PNG\r\n\x1a\n', b'\xff\xd8'],
)
def test_what_is_no_image_is_said(content, tmp_path):
    (tmp_path / 'a.png').write_bytes(content)
    with pytest.raises(ValueError, match="cannot read the image .*a.png'"):
        read_header(tmp_path / 'a.png')


def test_a_header_of_a_huge_image_is_read_without_its_pixels(tmp_path):
    path = tmp_path / 'a.png'
    Image.new('1', (1, 1)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack('>II', 100_000, 100_000)
    content[29:33] = struct.pack('>I', zlib.crc32(content[12:29]))
    path.write_bytes(content)
    assert read_header(path).width == 100_000


def test_statistics_are_medians_of_a_sample(tmp_path, monkeypatch):
    for number, (width, height) in enumerate([(10, 20), (30, 20), (50, 90)]):
        draw(tmp_path / f'{number}.jpg', width, height)
    image(tmp_path / '3.jpg', 20, 30)  # gray
    (tmp_path / '4.jpg').write_bytes(b'')
    tree = Tree(tmp_path)
    statistics, notes = measure(tree, tree.images[''])
    assert (statistics.width, statistics.height) == (30, 20)
    assert (statistics.max_width, statistics.max_height) == (50, 90)
    assert statistics.channels == 3 and statistics.dtype == 'uint8'
    assert len(notes) == 1 and '1 of 5 images' in notes[0] and "4.jpg'" in notes[0]


def test_images_of_several_kinds_are_said(tmp_path):
    image(tmp_path / 'a.tif', 30, 40, 4)
    image(tmp_path / 'b.tif', 30, 40, 4)
    image(tmp_path / 'c.tif', 30, 40, dtype=np.uint16)
    tree = Tree(tmp_path)
    statistics, (note,) = measure(tree, tree.images[''])
    assert statistics.channels == 4 and 'several kinds' in note


def test_not_one_image_is_an_error(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(b'')
    with pytest.raises(ValueError, match='none of 1 that were tried can be read'):
        measure(Tree(tmp_path), ['a.jpg'])


def test_a_tree_leaves_out_what_is_hidden_and_ends_at_loops(tmp_path):
    for name in ('a/b/1.jpg', '.git/2.jpg', '__MACOSX/3.jpg', 'a/._4.jpg'):
        draw(tmp_path / 'x.jpg')
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'x.jpg').rename(tmp_path / name)
    (tmp_path / 'a/loop').symlink_to(tmp_path)
    tree = Tree(tmp_path)
    assert tree.files == {'a/b/1.jpg'} and tree.images == {'a/b': ['1.jpg']}


def test_names_that_are_no_text_are_left_out(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(b'')
    with open(bytes(tmp_path) + b'/\xff.jpg', 'wb'):
        pass
    assert Tree(tmp_path).files == {'a.jpg'}


@pytest.mark.parametrize(
    ('path', 'split'),
    [
        ('annotations/instances_train2017.json', 'train'),
        ('valid/_annotations.coco.json', 'val'),
        ('images/training', 'train'),
        ('ImageSets/trainval.txt', None),
        ('restraint/a.json', None),
        ('train/images', 'train'),
        ('data/Test', 'test'),
    ],
)
def test_words_that_say_a_part(path, split):
    assert split_of(path) == split


def test_names_of_files():
    assert [suffix(name) for name in ('a/b.JPG', 'a.b/c', '.hidden', 'x.tar.gz')] == [
        '.jpg',
        '',
        '',
        '.gz',
    ]
    assert [stem(name) for name in ('a/b.JPG', 'a.b/c', '.hidden', 'x.tar.gz')] == [
        'b',
        'c',
        '.hidden',
        'x.tar',
    ]
    assert spread(range(10), 3) == [0, 3, 6] and spread([1, 2], 3) == [1, 2]
