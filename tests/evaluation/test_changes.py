"""Two files of predictions are compared: the evaluator's numbers, and files that do not match."""

import json

import cv2
import numpy as np
import pytest
import torch
from support.noisy_runs import read_json

from convnext_backbones.config.loading import load_run_config
from convnext_backbones.evaluation.changes import compare_predictions
from convnext_backbones.evaluation.predictions import evaluate_predictions


def save(dump: dict, path):
    torch.save(dump, path)
    return str(path)


def read(online) -> dict:
    return torch.load(online.dump, weights_only=True)


def other_predictions(online, path):
    """A copy that is worse: lower scores and other classes, or one class less."""
    dump = read(online)
    for record in dump['images']:
        if 'bboxes' in record:
            record['scores'][::3] *= 0.1
            record['labels'][1::3] = (record['labels'][1::3] + 1) % 10
        else:
            labels = cv2.imdecode(record['labels'].numpy(), cv2.IMREAD_UNCHANGED)
            labels[labels == 5] = 3
            labels[:20] = 0
            record['labels'] = torch.from_numpy(cv2.imencode('.png', labels)[1])
    return save(dump, path)


def compare(online, tmp_path, monkeypatch, with_config=True, b=None, **overrides):
    monkeypatch.chdir(online.cwd)
    b = b or other_predictions(online, tmp_path / 'b.pt')
    cfg = load_run_config(online.config, overrides) if with_config else None
    out, numbers = tmp_path / 'new/changes.html', tmp_path / 'numbers/changes.json'
    lines = compare_predictions(str(online.dump), b, out, cfg, numbers)
    return lines, read_json(numbers), out.read_text()


def test_numbers_of_both_are_those_of_the_evaluator(online, tmp_path, monkeypatch):
    lines, numbers, page = compare(online, tmp_path, monkeypatch)
    cfg = load_run_config(online.config)
    metrics, *_ = evaluate_predictions(cfg, str(tmp_path / 'b.pt'))
    if 'mIoU' in metrics:
        expected = [online.metrics['mIoU'], metrics['mIoU']]
        assert [100 * one for one in numbers['mean_iou']] == pytest.approx(expected, abs=0.006)
    else:
        expected = [one['coco/bbox_mAP'] for one in (online.metrics, metrics)]
        assert numbers['average_precision'] == pytest.approx(expected, abs=6e-4)
    assert expected[0] > expected[1]
    assert numbers['became_wrong'] > numbers['became_right']
    assert page.count('<img') > 6 and any('became wrong' in line for line in lines)
    assert lines[-1].startswith('most changed: 00000')


def test_without_a_config_the_predictions_are_compared(online, tmp_path, monkeypatch):
    lines, numbers, page = compare(online, tmp_path, monkeypatch, with_config=False)
    assert numbers['became_right'] is None
    assert not any('became' in line for line in lines)
    assert 'became right' not in page and '<img' in page


def test_the_same_file_twice_changes_nothing(online, tmp_path, monkeypatch):
    lines, numbers, page = compare(online, tmp_path, monkeypatch, b=str(online.dump))
    assert lines[0] == 'Nothing changed: A and B are the same.'
    assert 'Nothing changed' in page and '<img' not in page
    assert not any(line.startswith('most changed') for line in lines)


def test_images_in_another_order_are_compared_by_name(online, tmp_path, monkeypatch):
    dump = read(online)
    dump['images'].reverse()
    b = save(dump, tmp_path / 'b.pt')
    lines, *_ = compare(online, tmp_path, monkeypatch, b=b)
    assert lines[0] == 'Nothing changed: A and B are the same.'


def test_test_data_without_truth_show_their_images(segmented, tmp_path, monkeypatch):
    options = {'test_evaluator.format_only': True}
    _, numbers, page = compare(segmented, tmp_path, monkeypatch, **options)
    assert numbers['became_right'] is None and '<figcaption>image</figcaption>' in page


def lose_an_image(dump):
    dump['images'].pop(1)


def rename_an_image(dump):
    dump['images'][0]['name'] = 'elsewhere'


def lose_all(dump):
    dump['images'].clear()


def rename_a_class(dump):
    dump['classes'] = ('eleven', *dump['classes'][1:])


def swap_classes(dump):
    dump['classes'] = dump['classes'][::-1]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lose_an_image, 'same images, got 3 in .* and 2 in .*only in the second: none'),
        (rename_an_image, 'same images.*only in the first: .*1.*; only in the second: elsewhere'),
        (lose_all, 'at least one image, got none in'),
        (rename_a_class, r'same classes, .*only in the first: .*; only in the second: eleven\)'),
        (swap_classes, 'same classes, .*the same names in another order'),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
def test_predictions_that_do_not_match_are_refused(change, message, online, tmp_path, monkeypatch):
    dump = read(online)
    change(dump)
    with pytest.raises(ValueError, match=message) as caught:
        compare(online, tmp_path, monkeypatch, b=save(dump, tmp_path / 'b.pt'))
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'new').exists()


def test_predictions_of_two_kinds_are_refused(detected, segmented, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='one kind, got detections in .* and label maps in'):
        compare(detected, tmp_path, monkeypatch, b=str(segmented.dump))


def test_a_config_of_the_other_toolbox_is_refused(detected, segmented, tmp_path, monkeypatch):
    cfg = load_run_config(segmented.config)
    with pytest.raises(ValueError, match='a config of mmdet, .* got one of mmseg'):
        compare_predictions(str(detected.dump), str(detected.dump), tmp_path / 'a.html', cfg)


def test_a_threshold_that_is_no_score_is_refused(detected, tmp_path):
    dump = str(detected.dump)
    with pytest.raises(ValueError, match='expected a score threshold from 0 to 1, got 30'):
        compare_predictions(dump, dump, tmp_path / 'a.html', threshold=30)


def test_label_maps_that_cannot_be_compared_are_refused(segmented, tmp_path, monkeypatch):
    for content, message in (
        (cv2.imencode('.png', np.zeros((96, 95), np.uint8))[1], r"one shape for '000001.jpg'"),
        (np.zeros(9, np.uint8), 'label map for 000001.jpg in .*, got a damaged one'),
    ):
        dump = read(segmented)
        dump['images'][0]['labels'] = torch.from_numpy(content)
        b = save(dump, tmp_path / 'b.pt')
        with pytest.raises(ValueError, match=message):
            compare(segmented, tmp_path, monkeypatch, with_config=False, b=b)


def test_numbers_name_the_classes(online, tmp_path, monkeypatch):
    _, numbers, _ = compare(online, tmp_path, monkeypatch)
    names = {one['name'] for one in numbers['classes']}
    assert json.dumps(numbers, allow_nan=False)
    if 'transitions' in numbers:
        assert {one['a'] for one in numbers['transitions']} <= names
        moved = sum(one['pixels'] for one in numbers['transitions'] if one['a'] != one['b'])
        assert moved == numbers['changed']
    else:
        changes = [change for image in numbers['images'] for change in image['changes']]
        assert {change['kind'] for change in changes} >= {'kept', 'class changed', 'gone'}
        assert {change['class_a'] for change in changes} - {None} <= names
