"""The page that an evaluation leaves beside its metrics."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from markupsafe import Markup
from mmengine.config import Config
from support.noisy_runs import evaluate, read_json

from convnext_backbones.evaluation import report
from convnext_backbones.reports import detection_page
from tools import test as test_tool

SIZES = {'all sizes': '', 'small': '_s', 'medium': '_m', 'large': '_l'}
ANNOTATIONS = 'data/sample/coco/annotations/instances_val.json'


def rows(page: Path, section: str) -> list[list[str]]:
    """The cells of the tables in a section."""
    text = page.read_text(encoding='utf-8')
    (found,) = re.findall(rf'<h2>{section}</h2>(.*?)</section>', text, re.DOTALL)
    lines = re.findall(r'<tr[^>]*>(.*?)</tr>', found, re.DOTALL)
    return [line for line in (re.findall(r'<td[^>]*>(.*?)</td>', x) for x in lines) if line]


def number(cell: str) -> float:
    return -1.0 if cell == '–' else float(cell)


def check_numbers(page: Path, metrics: dict) -> None:
    """The numbers of a detector's page are those of CocoMetric."""
    compared = 0
    for of, size, ap, ap50, ap75, _ in rows(page, 'AP by size'):
        prefix = f'coco/{"bbox" if of == "boxes" else "segm"}_mAP'
        assert number(ap) == metrics[prefix + SIZES[size]], (of, size)
        compared += 1
        if size == 'all sizes':
            assert [number(ap50), number(ap75)] == [metrics[f'{prefix}_{i}'] for i in (50, 75)]
    assert compared == 4 * sum(name.endswith('_mAP') for name in metrics)


@pytest.fixture
def data(detected, tmp_path, monkeypatch) -> Path:
    """A folder with a copy of the data, which is the current one; the annotation file."""
    shutil.copytree(detected.cwd / 'data', tmp_path / 'data')
    monkeypatch.chdir(tmp_path)
    return tmp_path / ANNOTATIONS


@pytest.fixture
def logged(monkeypatch) -> list[tuple[str, int]]:
    """Messages and levels of what is logged about the page."""
    records: list[tuple[str, int]] = []

    def log(message: str, logger: str, level: int = logging.INFO) -> None:
        records.append((message, level))

    monkeypatch.setattr(report, 'print_log', log)
    return records


@pytest.fixture
def no_charts(monkeypatch) -> None:
    """Pages without charts, which take most of the time of a small page."""
    monkeypatch.setattr(detection_page, 'chart', lambda figure, description: Markup())


def test_the_test_leaves_a_page_with_the_numbers_of_its_metrics(detected):
    page = detected.work_dir / 'report.html'
    check_numbers(page, detected.metrics)
    # CocoMetric names the classes of its last task, masks.
    of_classes = {row[0]: number(row[1]) for row in rows(page, 'AP by class')}
    for name, ap in of_classes.items():
        expected = detected.metrics[f'coco/{name}_precision']
        assert ap == (-1 if expected is None else expected)
    text = page.read_text(encoding='utf-8')
    assert text.count('<img') == 6  # of three images
    assert 'data_time' not in text
    assert str(detected.config) in text


def test_a_segmentor_has_a_page_too(segmented):
    text = (segmented.work_dir / 'report.html').read_text(encoding='utf-8')
    assert f'{segmented.metrics["mIoU"]:g}' in text


def test_kept_predictions_give_the_same_page(online, tmp_path, monkeypatch):
    monkeypatch.chdir(online.cwd)
    evaluate(online.config, online.dump, *online.flags, '--work-dir', tmp_path)
    pages = [folder / 'report.html' for folder in (online.work_dir, tmp_path)]
    # The command differs.
    first, second = (page.read_text(encoding='utf-8').splitlines() for page in pages)
    differing = [pair for pair in zip(first, second, strict=True) if pair[0] != pair[1]]
    assert all('<dd>' in line for pair in differing for line in pair), differing
    assert len(differing) <= 3


def test_the_page_can_be_turned_off(online, tmp_path, monkeypatch):
    monkeypatch.chdir(online.cwd)
    evaluate(online.config, online.dump, '--work-dir', tmp_path / 'a', '--no-report')
    work_dir = tmp_path / 'b'
    args = [online.config, online.checkpoint, '--work-dir', work_dir, '--no-report']
    test_tool.main(list(map(str, args)))
    for folder in ('a', 'b'):
        assert (tmp_path / folder / 'metrics.json').is_file()
        assert not (tmp_path / folder / 'report.html').exists()


def test_the_test_makes_a_page_without_a_file_of_predictions(
    detected, tmp_path, monkeypatch, no_charts
):
    monkeypatch.chdir(detected.cwd)
    args = [detected.config, detected.checkpoint, '--work-dir', tmp_path]
    test_tool.main(list(map(str, args)))
    check_numbers(tmp_path / 'report.html', read_json(tmp_path / 'metrics.json'))
    assert not list(tmp_path.rglob('*.pt'))


def test_predictions_without_masks_have_a_page(detected, tmp_path, monkeypatch, no_charts):
    monkeypatch.chdir(detected.cwd)
    dump = torch.load(detected.dump, weights_only=True)
    for record in dump['images']:
        del record['masks']
    torch.save(dump, tmp_path / 'boxes.pt')
    evaluate(detected.config, tmp_path / 'boxes.pt', '--work-dir', tmp_path)
    metrics = read_json(tmp_path / 'metrics.json')
    assert not any('segm' in name for name in metrics)
    check_numbers(tmp_path / 'report.html', metrics)


def test_a_training_keeps_its_page(detected, tmp_path, monkeypatch, no_charts):
    monkeypatch.chdir(detected.cwd)
    (tmp_path / 'report.html').write_text('of the training')
    (tmp_path / 'environment.json').write_text('{}')
    evaluate(detected.config, detected.dump, '--work-dir', tmp_path)
    assert (tmp_path / 'report.html').read_text() == 'of the training'
    check_numbers(tmp_path / 'evaluation.html', read_json(tmp_path / 'metrics.json'))


# --- data of every kind ---------------------------------------------------------------------


def add_a_crowd(content: dict) -> None:
    content['annotations'][0]['iscrowd'] = 1


def add_what_datasets_drop(content: dict) -> None:
    first = content['annotations'][0]
    narrow = dict(first, id=10**6, bbox=[3, 3, 0.5, 40], area=20)
    content['annotations'].append(narrow)


def use_the_id_0(content: dict) -> None:
    content['annotations'][0]['id'] = 0


def reverse_images(content: dict) -> None:
    for entry in content['images']:
        entry['id'] = 10 - entry['id']
    for entry in content['annotations']:
        entry['image_id'] = 10 - entry['image_id']


def add_an_image(content: dict) -> None:
    content['images'].append(dict(content['images'][0], id=99, file_name='missing.jpg'))
    first = content['annotations'][0]
    content['annotations'].append(dict(first, id=10**6, image_id=99))


def use_other_categories(content: dict) -> None:
    for category in content['categories']:
        category['id'] *= 7
    for annotation in content['annotations']:
        annotation['category_id'] *= 7
    content['categories'].append(dict(id=1000, name='no class of the config'))
    content['annotations'].append(dict(content['annotations'][0], id=10**6, category_id=1000))


def reverse_categories(content: dict) -> None:
    content['categories'].reverse()


CHANGES = (
    add_a_crowd,
    add_what_datasets_drop,
    use_the_id_0,
    reverse_images,
    add_an_image,
    use_other_categories,
    reverse_categories,
)


@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)
def test_annotations_are_those_that_coco_metric_reads(change, data, detected, no_charts):
    content = json.loads(data.read_text())
    before = json.dumps(content)
    change(content)
    assert json.dumps(content) != before
    data.write_text(json.dumps(content))
    dump = torch.load(detected.dump, weights_only=True)
    ids = [entry['id'] for entry in content['images']]
    if change is add_an_image:
        dump['images'].append(dict(dump['images'][0], name=99))
    for record, name in zip(dump['images'], ids, strict=True):
        record['name'] = name
    torch.save(dump, 'kept.pt')
    evaluate(detected.config, 'kept.pt', '--work-dir', 'out')
    metrics = read_json(Path('out/metrics.json'))
    check_numbers(Path('out/report.html'), metrics)
    if change in (add_a_crowd, add_what_datasets_drop, add_an_image):
        names = [name for name in metrics if 'mAP' in name]
        assert any(metrics[name] != detected.metrics[name] for name in names)


def test_objects_of_the_dataset_without_an_annotation_file(data, detected, no_charts):
    options = ['--cfg-options', 'test_evaluator.ann_file=None']
    evaluate(detected.config, detected.dump, '--work-dir', 'out', *options)
    metrics = read_json(Path('out/metrics.json'))
    check_numbers(Path('out/report.html'), metrics)
    assert metrics['coco/bbox_mAP'] > 0.1


def test_the_fast_evaluation_makes_the_same_tables(data, detected, no_charts):
    evaluate(detected.config, detected.dump, '--work-dir', 'out', '--fast-eval')
    for section in ('AP by class', 'AP by size', 'Errors by kind'):
        pages = (detected.work_dir / 'report.html', Path('out/report.html'))
        first, second = (rows(page, section) for page in pages)
        assert first == second and first


def test_images_that_cannot_be_read_have_a_sentence(data, detected, no_charts):
    first, second, _ = sorted(Path('data/sample/coco/val').glob('*.jpg'))
    first.unlink()
    second.write_bytes(b'damaged')
    evaluate(detected.config, detected.dump, '--work-dir', 'out')
    text = Path('out/report.html').read_text(encoding='utf-8')
    assert text.count('<img') == 2
    assert text.count('cannot read the image') == 2 and 'damaged or not an image' in text


def test_images_outside_of_the_data_are_not_shown(data, detected, logged):
    content = json.loads(data.read_text())
    shutil.copy('data/sample/coco/val/' + content['images'][0]['file_name'], 'secret.jpg')
    content['images'][0]['file_name'] = '../../../../secret.jpg'
    data.write_text(json.dumps(content))
    evaluate(detected.config, detected.dump, '--work-dir', 'out')
    ((message, _),) = logged
    assert 'expected files below' in message and 'secret.jpg' in message
    assert not Path('out/report.html').exists() and Path('out/metrics.json').is_file()


# --- no page ----------------------------------------------------------------------------------


def config(*metrics: dict, scope: str = 'mmdet') -> Config:
    return Config(dict(default_scope=scope, test_evaluator=list(metrics)))


@pytest.mark.parametrize(
    ('cfg', 'reason'),
    [
        (config(dict(type='CocoMetric')), None),
        (config(dict(type='mmdet.CocoMetric', metric=['segm'])), None),
        (config(dict(type='CocoMetric', prefix='a'), dict(type='CocoMetric', metric='segm')), None),
        (config(dict(type='IoUMetric'), scope='mmseg'), None),
        (config(dict(type='LVISMetric')), 'evaluates with LVISMetric'),
        (config(dict(type='CocoMetric'), dict(type='VOCMetric')), 'evaluates with VOCMetric'),
        (config(), 'evaluates with no metric'),
        (config(dict(type='CityscapesMetric'), scope='mmseg'), 'evaluates with CityscapesMetric'),
        (config(dict(type='CocoMetric', metric='proposal')), 'proposals'),
        (config(dict(type='CocoMetric', metric=['proposal_fast'])), 'proposals'),
        (config(dict(type='CocoMetric', format_only=True)), 'format_only'),
        (
            config(dict(type='CocoMetric', ann_file='a'), dict(type='CocoMetric', ann_file='b')),
            'different options',
        ),
        (
            config(dict(type='IoUMetric'), dict(type='IoUMetric', nan_to_num=0), scope='mmseg'),
            'different options',
        ),
    ],
)
def test_what_has_no_page(cfg, reason):
    found = report.why_no_report(cfg)
    assert found is None if reason is None else reason in found


def test_the_log_says_why_there_is_no_page(detected, tmp_path, monkeypatch, logged):
    monkeypatch.chdir(detected.cwd)
    options = ['--cfg-options', 'test_evaluator.metric=proposal']
    args = [detected.config, detected.checkpoint, '--work-dir', tmp_path, *options]
    test_tool.main(list(map(str, args)))
    evaluate(detected.config, detected.dump, '--work-dir', tmp_path, *options)
    sentence = 'There is no report: the config evaluates proposals, which have no classes.'
    assert logged == [(sentence, logging.INFO)] * 2
    assert 'coco/AR@100' in read_json(tmp_path / 'metrics.json')
    assert not (tmp_path / 'report.html').exists()


def test_an_earlier_page_does_not_stay(tmp_path):
    cfg = config(dict(type='LVISMetric'))
    cfg.work_dir = str(tmp_path)
    for records in (None, []):
        (tmp_path / 'report.html').write_text('of another evaluation')
        assert report.write_report(cfg, None, records, {}) is None
        assert not any(tmp_path.iterdir())


def test_the_saved_config_is_the_one_that_was_given(detected, tmp_path, monkeypatch):
    """So that it can be used again; and a training's own record is left alone."""
    monkeypatch.chdir(detected.cwd)
    (tmp_path / 'config.py').write_text(Path(detected.config).read_text())
    before = (tmp_path / 'config.py').read_bytes()
    (tmp_path / 'environment.json').write_text('{}')
    args = [tmp_path / 'config.py', detected.checkpoint, '--work-dir', tmp_path]
    test_tool.main([*map(str, args), '--dump', str(tmp_path / 'kept.pt')])
    assert (tmp_path / 'config.py').read_bytes() == before
    saved = Config.fromfile(tmp_path / 'evaluated_config.py')
    assert 'DumpPredictions' not in str(saved.test_evaluator)
    assert (tmp_path / 'kept.pt').is_file() and (tmp_path / 'evaluation.html').is_file()


def test_a_page_that_fails_costs_no_metrics(online, tmp_path, monkeypatch, logged):
    def fail(*args):
        assert (tmp_path / 'metrics.json').is_file()
        raise ZeroDivisionError('by accident')

    name = 'detection' if 'coco/bbox_mAP' in online.metrics else 'segmentation'
    module = f'convnext_backbones.evaluation.{name}_report'
    monkeypatch.setattr(f'{module}.write_{name}_report', fail)
    monkeypatch.chdir(online.cwd)
    (tmp_path / 'report.html').write_text('of an earlier evaluation')
    evaluate(online.config, online.dump, '--work-dir', tmp_path)
    ((message, level),) = logged
    assert 'it failed with ZeroDivisionError: by accident. The metrics are' in message
    assert level == logging.WARNING
    assert not (tmp_path / 'report.html').exists()
