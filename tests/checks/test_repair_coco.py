"""Files as labelling tools write them: what fails is found, and what can be repaired is."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.evaluation.metrics import CocoMetric
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from support.bad_input import json_files
from support.coco_variants import (
    SQUARE,
    TEXTS,
    VARIANTS,
    count_trained,
    evaluate,
    turn,
    write_variant,
)
from support.datasets import SPLITS, check_files, draw

from convnext_backbones.checks import sources
from convnext_backbones.checks.findings import ERROR
from convnext_backbones.checks.repair import LIST, Repair, repair_data
from convnext_backbones.checks.repair_changes import Log, as_lines
from convnext_backbones.checks.repair_coco import repair_coco
from convnext_backbones.checks.sources import build_sources
from convnext_backbones.evaluation.fast_coco import FastCocoMetric

# What is done to the training file, by the beginning of the kind of each change or of what is left.
CROWD, BOX, AREA = 'iscrowd written', 'boxes taken from the mask', 'areas computed'
NULL, SHORT, NO_MASK = 'NaN and Infinity', 'polygons without area', 'objects without a usable mask'
NESTED, POINTS, RLE = 'polygons written as', 'points that are no finite', 'RLE written'
IMAGES, CATEGORIES, ANNOTATIONS = (
    f'{what} renumbered' for what in ('images', 'categories', 'annotations')
)
IMAGE_ID, CATEGORY_ID = 'image_id followed', 'category_id followed'
UNKNOWN, SIZES, WHOLE = 'annotations of images or', 'width and height of images read', 'width and'
FILES, UTF_8 = 'files of images found', 'the file written in UTF-8'
MERGED_IMAGES, MERGED_CATEGORIES = 'images listed twice', 'categories listed twice'
CHANGES: dict[str, list[str]] = {
    'no iscrowd': [CROWD],
    'iscrowd of null': [CROWD],
    'iscrowd of text': [CROWD],
    'no area': [AREA],
    'area of null': [AREA],
    'area of 0': [AREA],
    'area below 0': [AREA],
    'area of NaN': [NULL, AREA],
    'area of text': [AREA],
    'area of another scale': [AREA],
    'no box': [BOX],
    'empty box': [BOX],
    'box of text': ['numbers in boxes'],
    'box of NaN': [NULL, BOX],
    'box elsewhere': [BOX],
    'box beyond': [BOX],
    'box outside': [BOX],
    'box of negative size': [BOX],
    'boxes of two corners': ['boxes of two corners'],
    'no segmentation': [NO_MASK],
    'segmentation of null': [NO_MASK],
    'segmentation of text': [NO_MASK],
    'no polygon': [NO_MASK],
    'empty polygon': [SHORT, NO_MASK],
    'empty polygon first': [SHORT],
    'one point': [SHORT, NO_MASK],
    'two points': [SHORT, NO_MASK],
    'two points first': [SHORT],
    'two points later': [SHORT],
    'half a point': ['half a point'],
    'half a point first': ['half a point'],
    'flat list': [NESTED],
    'pairs': [NESTED],
    'points as polygons': [NESTED],
    'a line': [SHORT, NO_MASK],
    'a line first': [SHORT],
    'polygon beyond': ['polygons cut', BOX],
    'polygon of text': ['numbers in polygons'],
    'polygon of NaN': [NULL, POINTS],
    'polygon of null': [POINTS],
    'runs of floats': [RLE],
    'runs without a size': [RLE],
    'runs in a list': [RLE],
    'encoded text with b': [RLE],
    'image ids of digits': [IMAGES, IMAGE_ID],
    'image ids of words': [IMAGES, IMAGE_ID],
    'image id twice': [MERGED_IMAGES],
    'image of no id': [IMAGES, MERGED_IMAGES],
    'annotation ids of digits': [ANNOTATIONS],
    'annotation ids of words': [ANNOTATIONS],
    'annotation ids from 0': [ANNOTATIONS],
    'annotation ids of floats': [ANNOTATIONS],
    'annotation id twice': [ANNOTATIONS],
    'no annotation ids': [ANNOTATIONS],
    'huge annotation id': [ANNOTATIONS],
    'negative annotation id': [ANNOTATIONS],
    'category ids of digits': [CATEGORIES, CATEGORY_ID],
    'references of text': [IMAGE_ID, CATEGORY_ID],
    'unknown image': [UNKNOWN],
    'unknown category': [UNKNOWN],
    'category twice': [MERGED_CATEGORIES],
    'category name twice': [MERGED_CATEGORIES, CATEGORY_ID],
    'categories in another order': ['categories brought'],
    'missing category': [ANNOTATIONS, 'classes without an object', UNKNOWN],
    'sizes of -1': [SIZES],
    'no sizes': [SIZES],
    'sizes of 0': [SIZES],
    'sizes of floats': [WHOLE],
    'sizes of text': [WHOLE],
    'sizes of NaN': [NULL, SIZES],
    'a wrong size': [SIZES],
    'sizes exchanged': [SIZES],
    'Windows path': [FILES],
    'Windows subfolder': [FILES],
    'path of another machine': [FILES],
    'upload path': [FILES],
    'encoded path': [FILES],
    'upper case': [FILES],
    'file twice': [MERGED_IMAGES],
    'file twice with its object': [MERGED_IMAGES, IMAGE_ID, 'objects of a merged image'],
    'BOM': [UTF_8],
    'UTF-16': [UTF_8],
    'NaN in other keys': [NULL],
    'Infinity': [NULL, AREA],
    'number too large': [AREA],
}
LEFT = {
    'all crowd': 'iscrowd of 1 in all',
    'runs of another sum': 'RLE whose size',
    'runs of a turned image': 'RLE whose size',
    'runs of another size': 'RLE whose size',
    'encoded text cut off': 'RLE whose size',
    'a size twice as large': 'images of another size',
    'no file name': 'images without a file_name',
    'missing file': 'images whose file is not there',
}
# What no class is without.
EMPTY_CLASS = 'classes without a single object'
# pycocotools reads memory of others, or takes all of it.
NOT_TO_BE_EVALUATED = {
    'polygon of NaN',
    'polygon of null',
    'runs of another sum',
    'encoded text cut off',
}
# How many objects are trained after the repair, if not all 3, and whether the predictions, those
# of the healthy file, fit this one.
COUNTED_OTHERWISE = {
    **{name: (2,) for name, kinds in CHANGES.items() if NO_MASK in kinds or UNKNOWN in kinds},
    'image without objects': (2,),
    'annotation id twice': (4, False),
    'polygon beyond': (3, False),
    'boxes of two corners': (3, False),
}
METRICS = (CocoMetric, FastCocoMetric)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    init_default_scope('mmdet')
    monkeypatch.setattr(sources, 'track', lambda items, *args, **kwargs: items)  # no progress bars


def variant(coco, name: str) -> Config:
    """A config of data of which both files are variants."""
    cfg = coco.config()
    for split in SPLITS:
        write_variant(name, copy.deepcopy(coco.content[split]), coco.folder / f'{split}.json')
    path = str(coco.folder / 'val.json')
    cfg.val_evaluator = dict(type='CocoMetric', ann_file=path, metric=['bbox', 'segm'])
    return cfg


def findings_with(cfg: Config, kind: type) -> list:
    cfg.val_evaluator.type = kind.__name__
    return check_files(cfg)


def is_evaluated_rightly(cfg: Config, kind: type) -> bool:
    try:
        return evaluate(cfg, kind) == [1, 1]
    except Exception:
        return False


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted({*VARIANTS, *TEXTS} - NOT_TO_BE_EVALUATED))
def test_what_dies_or_counts_wrongly_is_found_and_evaluated_once_repaired(coco, name, tmp_path):
    cfg = variant(coco, name)
    for kind in METRICS:
        assert is_evaluated_rightly(cfg, kind) or findings_with(cfg, kind)
    repair = repair_data(cfg, tmp_path / 'out')
    if name not in LEFT:
        trained, *fair = COUNTED_OTHERWISE.get(name, (3,))
        assert count_trained(repair.config) == trained
        for kind in METRICS:
            assert is_evaluated_rightly(repair.config, kind) == all(fair)


@pytest.mark.parametrize('name', [*VARIANTS, *TEXTS])
def test_what_can_be_decided_is_repaired(coco, name, tmp_path):
    cfg = variant(coco, name)
    before = {path: path.read_bytes() for path in coco.folder.rglob('*') if path.is_file()}
    repair = repair_data(cfg, tmp_path / 'out')
    assert {path: path.read_bytes() for path in before} == before
    log = next(log for log in repair.logs if log.file == str(coco.folder / 'train.json'))
    kinds = dict.fromkeys(change.kind for change in log.changes)
    expected = CHANGES.get(name, [])
    assert len(kinds) == len(expected), kinds
    assert all(kind.startswith(words) for kind, words in zip(kinds, expected, strict=True))
    left = {entry.kind for entry in log.left}
    assert len(left) == (name in LEFT)
    assert all(kind.startswith(LEFT[name]) for kind in left)
    assert bool(repair.folder) == (tmp_path / 'out').exists() == bool(expected)

    again = repair_data(repair.config, tmp_path / 'again')
    assert again.folder is None and not (tmp_path / 'again').exists()
    for kind in METRICS:
        findings = findings_with(repair.config, kind)
        errors = [finding for finding in findings if finding.level == ERROR]
        assert bool(errors) == (name in LEFT)
        assert name in LEFT or all(EMPTY_CLASS in finding.what for finding in findings)


def repaired(coco, tmp_path, **overrides) -> tuple[dict, list]:
    """The repaired training file, and the changes and what is left."""
    repair = repair_data(coco.config(**overrides), tmp_path / 'out')
    path = tmp_path / 'out/train.json'
    content = json.loads(path.read_text()) if path.exists() else coco.train
    log = repair.logs[0]
    return content, [entry.kind for entry in [*log.changes, *log.left]]


def test_values_are_those_of_the_mask(coco, tmp_path):
    coco.train['annotations'][1].update(bbox=[0, 0, 1, 1], area=-1)
    content, _ = repaired(coco, tmp_path)
    entry = content['annotations'][1]
    assert (entry['bbox'], entry['area']) == ([5, 6, 10, 8], 80)
    coco.train['annotations'][1] = {**entry, 'area': 80, 'bbox': [5, 6, 10, 8]}
    assert content == coco.train  # and nothing else is changed


def test_polygons_end_at_the_edge(coco, tmp_path):
    entry = coco.train['annotations'][1]
    entry.update(segmentation=[[25, 6, 60, 6, 60, 14, 25, 14]], bbox=[25, 6, 35, 8], area=280)
    content, _ = repaired(coco, tmp_path)
    entry = content['annotations'][1]
    xs, ys = (entry['segmentation'][0][axis::2] for axis in (0, 1))
    assert (min(xs), max(xs), min(ys), max(ys)) == (25, 40, 6, 14)
    assert entry['bbox'] == [25, 6, 15, 8]


def test_without_masks_the_box_remains(coco, tmp_path):
    coco.train['annotations'][1].update(segmentation=[[1, 2, 3, 4]])
    load = [dict(type='LoadAnnotations', with_bbox=True)]
    content, kinds = repaired(coco, tmp_path, pipeline=load)
    assert 'segmentation' not in content['annotations'][1] and len(content['annotations']) == 3
    assert len(kinds) == 1 and 'the boxes remain' in kinds[0]


def test_most_objects_are_never_left_out(coco, tmp_path):
    """Data of boxes only, trained with masks by mistake."""
    for entry in coco.train['annotations']:
        del entry['segmentation']
    content, kinds = repaired(coco, tmp_path)
    assert content == coco.train and len(kinds) == 3
    assert all('more than half of all objects would go' in kind for kind in kinds)


def test_half_a_point_far_from_its_box(coco, tmp_path):
    coco.train['annotations'][1].update(segmentation=[[30, *SQUARE]])
    _, kinds = repaired(coco, tmp_path)
    assert 'far from their box' in kinds[0]


@pytest.mark.parametrize(('count', 'are_corners'), [(3, False), (5, True)])
def test_corners_without_masks(coco, tmp_path, count, are_corners):
    first = {**coco.train['annotations'][0], 'bbox': [25, 16, 35, 24], 'area': 80}
    del first['segmentation']
    coco.train['annotations'] = [dict(first, id=i + 1, image_id=1) for i in range(count)]
    content, kinds = repaired(coco, tmp_path, pipeline=[])
    boxes = [entry['bbox'] for entry in content['annotations']]
    assert boxes == [[25, 16, 10, 8] if are_corners else [25, 16, 15, 14]] * count
    assert ('boxes of two corners' in kinds[0]) == are_corners


def test_one_box_that_is_none_of_two_corners_decides(coco, tmp_path):
    first = {**coco.train['annotations'][0], 'bbox': [25, 16, 35, 24], 'area': 80}
    del first['segmentation']
    coco.train['annotations'] = [dict(first, id=i + 1, image_id=1) for i in range(9)]
    coco.train['annotations'][4]['bbox'] = [20, 16, 10, 8]
    _, kinds = repaired(coco, tmp_path, pipeline=[])
    assert not any('corners' in kind for kind in kinds)


def test_turned_photographs_are_left(coco, tmp_path):
    turn(coco.folder / 'train/1.jpg')
    content, kinds = repaired(coco, tmp_path)
    assert content == coco.train and len(kinds) == 1 and 'EXIF' in kinds[0]
    for entry in coco.train['images']:
        entry['width'] = -1
    content, _ = repaired(coco, tmp_path)
    sizes = [(entry['width'], entry['height']) for entry in content['images']]
    assert sizes == [(30, 40), (40, 30), (40, 30)]  # as they are loaded


def test_images_of_16_bits(coco, tmp_path):
    for entry in coco.train['images']:
        entry.update(width=0, file_name=f'{entry["id"]}.tif')
        Image.new('I;16', (40, 30)).save(coco.folder / f'train/{entry["id"]}.tif')
    content, _ = repaired(coco, tmp_path)
    assert [entry['width'] for entry in content['images']] == [40] * 3


def test_a_file_that_fits_twice_is_not_chosen(coco, tmp_path):
    for folder in 'ab':
        draw(coco.folder / f'train/{folder}/new.jpg')
    coco.train['images'][0]['file_name'] = '/data/upload/new.jpg'
    coco.train['images'][1]['file_name'] = 'C:\\b\\new.jpg'
    content, kinds = repaired(coco, tmp_path)
    names = [entry['file_name'] for entry in content['images']]
    assert names == ['/data/upload/new.jpg', 'b/new.jpg', '3.jpg']
    assert len(kinds) == 2 and 'fits several files' in kinds[1]


def test_one_file_for_two_names_is_not_chosen(coco, tmp_path):
    draw(coco.folder / 'train/new.jpg')
    coco.train['images'][0]['file_name'] = 'a/new.jpg'
    coco.train['images'][1]['file_name'] = 'b/new.jpg'
    content, kinds = repaired(coco, tmp_path)
    assert content == coco.train and len(kinds) == 2


def test_files_outside_of_the_data_root_are_not_taken(coco, tmp_path):
    draw(tmp_path / 'secret.jpg')
    coco.train['images'][0]['file_name'] = '../../secret.jpg'
    content, kinds = repaired(coco, tmp_path)
    assert content == coco.train and 'fits several files' in kinds[0]


@pytest.mark.parametrize('what', ['images', 'categories'])
def test_different_entries_of_one_id_are_left(coco, tmp_path, what):
    coco.train[what][1]['id'] = 1
    _, kinds = repaired(coco, tmp_path)
    assert len(kinds) == 1 and f'different {what} have one id' in kinds[0]


@pytest.mark.parametrize(
    'text',
    ['{', '[]', '{"images": 1}', '{"images": [NaN]}', '[' * 10**5, '{"images": [' + '9' * 5000],
)
def test_what_is_no_annotation_file_is_left(coco, tmp_path, text):
    cfg = coco.config()
    (coco.folder / 'train.json').write_text(text)
    repair = repair_data(cfg, tmp_path / 'out')
    (left,) = repair.logs[0].left
    assert left.kind.startswith('a file that cannot be read: ') and '\n' not in left.kind
    assert not repair.folder and not (tmp_path / 'out' / LIST).exists()


def test_letters_of_all_kinds_remain(coco, tmp_path):
    coco.train['info'] = dict(text='größe \ud800 東京')
    del coco.train['annotations'][0]['iscrowd']
    content, _ = repaired(coco, tmp_path)
    assert content['info'] == coco.train['info']


def test_bad_input_is_repaired_or_left(coco, tmp_path):
    """And what is written is JSON that needs no repair."""
    source = next(iter(build_sources(coco.config(), ['train'])[0]))
    path = coco.folder / 'train.json'

    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(json_files(coco.train), st.booleans(), st.booleans())
    def check(text, masks, thorough):
        path.write_bytes(text)
        log, again = Log(str(path)), Log(str(path))
        repaired = repair_coco(str(path), source, masks, thorough, log)
        lines = [*as_lines(log.changes, 'fixed'), *as_lines(log.left, 'left')]
        assert all(line.isprintable() for line in lines), 'one line each'
        json.dumps(Repair(Config(), logs=[log]).as_data(), allow_nan=False)
        if repaired is not None:
            path.write_text(repaired)
            assert repair_coco(str(path), source, masks, thorough, again) is None

    check()
