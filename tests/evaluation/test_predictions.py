"""Predictions that are kept and evaluated again without the network."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.miniatures import gloo_only
from support.noisy_runs import ROOT, evaluate, read_json, refusal

from convnext_backbones.evaluation import predictions

TOOLS = ROOT / 'tools'


def test_kept_predictions_give_the_metrics_of_the_test(online, tmp_path, monkeypatch):
    shutil.copytree(online.cwd / 'data', tmp_path / 'data')
    for path in (tmp_path / 'data').rglob('*.jpg'):
        path.write_bytes(b'')  # there is nothing that a network could see
    monkeypatch.chdir(tmp_path)
    evaluate(online.config, online.dump, *online.flags, '--work-dir=again', '--out=out')
    metrics = read_json(Path('again/metrics.json'))
    names = [name for name in online.metrics if 'time' not in name]
    assert metrics == {name: online.metrics[name] for name in names}
    compared = 0
    for folder, again in ((online.work_dir, Path('again')), (online.out, Path('out'))):
        for path in again.iterdir():
            if path.name not in ('metrics.json', 'report.html'):  # times, paths, images
                assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
                compared += 1
    assert compared == (2 if 'coco/bbox_mAP' in metrics else 2 + 3)
    main_metrics = [metrics[n] for n in ('coco/bbox_mAP', 'coco/segm_mAP', 'mIoU') if n in metrics]
    assert all(0.1 < value < 90 for value in main_metrics) and main_metrics


def test_predictions_without_masks_are_evaluated_by_their_boxes(detected, tmp_path, monkeypatch):
    dump = torch.load(detected.dump, weights_only=True)
    for record in dump['images']:
        del record['masks']
    torch.save(dump, tmp_path / 'boxes.pt')
    monkeypatch.chdir(detected.cwd)
    args = [detected.config, tmp_path / 'boxes.pt', '--work-dir', tmp_path]
    evaluate(*args)
    metrics = read_json(tmp_path / 'metrics.json')
    boxes = {k: v for k, v in detected.metrics.items() if 'bbox' in k}
    assert metrics == boxes
    sentence = refusal(*args, '--cfg-options', 'test_evaluator.metric=segm')
    assert "expected masks for metric='segm'" in sentence


def test_kept_predictions_hold_nothing_else(detected):
    dump = predictions.read_predictions(str(detected.dump))
    for record in dump['images']:
        for tensor in (record['bboxes'], record['scores'], record['labels']):
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_predictions_that_would_execute_code_are_refused(online, tmp_path, monkeypatch):
    class Malicious:
        def __reduce__(self):
            return os.system, (f'touch {tmp_path}/executed',)

    dump = torch.load(online.dump, weights_only=True)
    torch.save(dump | {'images': Malicious()}, tmp_path / 'forged.pt')
    monkeypatch.chdir(online.cwd)
    assert 'would execute posix.system' in refusal(online.config, tmp_path / 'forged.pt')
    assert not (tmp_path / 'executed').exists()


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit(content: bytes) -> bytes:
    """In the values of the first tensor, where neither pickle nor zip structure is."""
    place = content.index(b'/data/0FB') + 80
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize('damage', [truncate, flip_a_bit])
def test_damaged_predictions_are_refused(damage, online, tmp_path, monkeypatch):
    path = tmp_path / 'damaged.pt'
    path.write_bytes(damage(online.dump.read_bytes()))
    monkeypatch.chdir(online.cwd)
    assert 'damaged' in refusal(online.config, path)


def lose_an_image(dump: dict) -> None:
    dump['images'].pop(1)


def swap_images(dump: dict) -> None:
    dump['images'].reverse()


def rename_an_image(dump: dict) -> None:
    dump['images'][0]['name'] = 'elsewhere'


def add_a_class(dump: dict) -> None:
    dump['classes'] += ('eleven',)


def lose_a_name(dump: dict) -> None:
    del dump['images'][0]['name']


def be_something_else(dump: dict) -> None:
    dump.clear()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lose_an_image, '3 images of the .* got 2 in .*: 1 are missing, 0 are of other images'),
        (swap_images, 'in their order, got 3 in .*: 0 are missing, 0 are of other images'),
        (rename_an_image, 'got 3 in .*: 1 are missing, 1 are of other images'),
        (add_a_class, r'predictions of the \d+ classes of .* test data, got .* others'),
        (be_something_else, 'expected predictions written by tools/test.py --dump, got a file'),
        (lose_a_name, 'expected predictions written by tools/test.py --dump, got a file'),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
def test_other_predictions_are_refused(change, message, online, tmp_path, monkeypatch):
    dump = torch.load(online.dump, weights_only=True)
    change(dump)
    torch.save(dump, tmp_path / 'other.pt')
    monkeypatch.chdir(online.cwd)
    assert re.search(message, refusal(online.config, tmp_path / 'other.pt'))


def test_label_maps_of_another_size_are_refused(segmented, tmp_path, monkeypatch):
    dump = torch.load(segmented.dump, weights_only=True)
    _, image = cv2.imencode('.png', np.zeros((96, 95), np.uint8))
    dump['images'][2]['labels'] = torch.from_numpy(image)
    torch.save(dump, tmp_path / 'other.pt')
    monkeypatch.chdir(segmented.cwd)
    sentence = refusal(segmented.config, tmp_path / 'other.pt')
    assert (
        'expected a label map of shape (96, 96) for 000003.jpg, got one of shape (96, 95)'
        in sentence
    )


@pytest.mark.slow
@gloo_only
def test_two_processes_keep_the_predictions_of_one(online, tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    paths = [str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')]
    flags = [*online.flags, '--dump', tmp_path / 'shared.pt', '--work-dir', tmp_path]
    subprocess.run(
        [TOOLS / 'dist_test.sh', online.config, online.checkpoint, '2', *flags],
        cwd=online.cwd,
        env=os.environ
        | dict(PYTHON=sys.executable, PORT=port, PYTHONPATH=os.pathsep.join(filter(None, paths))),
        check=True,
        timeout=240,
    )
    metrics = read_json(tmp_path / 'metrics.json')
    assert {k: v for k, v in metrics.items() if 'time' not in k} == {
        k: v for k, v in online.metrics.items() if 'time' not in k
    }
    assert (tmp_path / 'report.html').is_file()
    for path in online.work_dir.glob('per_class.*'):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    kept, shared = (
        predictions.read_predictions(str(p)) for p in (online.dump, tmp_path / 'shared.pt')
    )
    assert str(shared) == str(kept)
