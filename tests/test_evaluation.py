"""Metrics, test-time augmentation and kept predictions, mostly with models that run no network."""

import csv
import gc
import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, METRICS, MODELS, init_default_scope
from support.miniatures import gloo_only
from support.noisy_models import noisy_labels

from convnext_backbones.evaluation import flags as evaluation_flags
from convnext_backbones.evaluation import metrics as evaluation_metrics
from convnext_backbones.evaluation import predictions

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / 'tools'
NOISY = """
_base_ = ['{base}']
custom_imports = dict(imports=['convnext_backbones', 'support.noisy_models'])
model = dict(_delete_=True, type='{model}')
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
"""


def load_tool(name: str):
    """A tool as a module; under its own name, test.py would hide Python's package of that name."""
    return importlib.import_module(f'tools.{name}')


def read_json(path: Path):
    """What a strict reader finds: Python's own would take the NaN that JSON does not know."""

    def refuse(constant: str):
        raise ValueError(f'{constant} in {path}')

    return json.loads(path.read_text(), parse_constant=refuse)


def test_the_import_registers_and_needs_torch_and_mmengine_only(run_python, tmp_path):
    code = """
        import sys
        import convnext_backbones.evaluation
        from mmengine.registry import METRICS

        names = ('FastCocoMetric', 'PerClassIoUMetric', 'DumpPredictions')
        assert all(METRICS.get(name) for name in names)
        assert not {'mmcv', 'mmdet', 'mmseg', 'pycocotools', 'faster_coco_eval'} & set(sys.modules)
    """
    run_python(code, tmp_path)


# --- pycocotools and faster-coco-eval -------------------------------------------------------


@pytest.fixture(scope='module')
def compare_evaluators():
    return load_tool('compare_evaluators')


IMAGES, FEW_IMAGES = 120, 20
TASKS = ('bbox', 'segm')


@pytest.fixture(scope='module')
def made(compare_evaluators):
    made = compare_evaluators.DetectionMaker(IMAGES)
    assert len(made.detections) > 30 * IMAGES
    assert any(annotation['iscrowd'] for annotation in made.ground_truth['annotations'])
    return made


@pytest.fixture(scope='module')
def reference(compare_evaluators, made) -> dict[str, np.ndarray]:
    """The twelve numbers of pycocotools for each task."""
    coco = compare_evaluators.COCOeval
    numbers = {
        task: compare_evaluators.evaluate(coco, made.ground_truth, made.detections, task)[0]
        for task in TASKS
    }
    assert all(((n > 0.3) & (n < 0.9)).all() for n in numbers.values())
    return numbers


@pytest.mark.parametrize('task', TASKS)
def test_fast_evaluation_gives_the_same_twelve_numbers(compare_evaluators, made, reference, task):
    fast = evaluation_metrics.fast_evaluator()
    numbers, _ = compare_evaluators.evaluate(fast, made.ground_truth, made.detections, task)
    assert len(numbers) == 12
    assert np.abs(numbers - reference[task]).max() < 1e-9


def test_fast_evaluation_needs_its_own_first_number(compare_evaluators, made, reference):
    """Images with more than 100 detections of a class tell the two definitions of AP apart."""
    from faster_coco_eval import COCOeval_faster as theirs

    numbers, _ = compare_evaluators.evaluate(theirs, made.ground_truth, made.detections, 'bbox')
    assert np.abs(numbers - reference['bbox'])[0] > 1e-5


@pytest.mark.parametrize('enabled', [True, False])
def test_garbage_is_collected_again_after_an_evaluation(monkeypatch, enabled):
    collects = [enabled]
    monkeypatch.setattr(gc, 'isenabled', lambda: collects[-1])
    monkeypatch.setattr(gc, 'disable', lambda: collects.append(False))
    monkeypatch.setattr(gc, 'enable', lambda: collects.append(True))

    def fail(self):
        assert collects[-1] is False
        raise ZeroDivisionError

    monkeypatch.setattr('faster_coco_eval.COCOeval_faster.evaluate', fail)
    with pytest.raises(ZeroDivisionError):
        evaluation_metrics.fast_evaluator()(None, None, 'bbox').evaluate()
    assert collects[-1] is enabled


@pytest.mark.slow
def test_the_comparison_of_a_thousand_images(compare_evaluators, capsys):
    compare_evaluators.main(['--rounds', '1'])
    lines = capsys.readouterr().out.splitlines()
    detections = int(lines[0].split()[4])
    assert lines[0].startswith('1000 images') and abs(detections - 34000) < 1000
    differences = [float(x.split()[-1]) for x in lines if x.startswith('largest difference')]
    assert len(differences) == 2 and max(differences) < 1e-9
    assert sum(line.startswith('time: pycocotools') for line in lines) == 2


def test_fast_metric_has_the_keys_and_values_of_mmdets(compare_evaluators, tmp_path, monkeypatch):
    from mmdet.evaluation.metrics import coco_metric

    made = compare_evaluators.DetectionMaker(FEW_IMAGES)
    ann_file = tmp_path / 'instances.json'
    ann_file.write_text(json.dumps(made.ground_truth))
    options = dict(ann_file=str(ann_file), metric=[*TASKS, 'proposal'], classwise=True)
    classes = tuple(c['name'] for c in made.ground_truth['categories'])
    init_default_scope('mmdet')

    def compute(**kwargs) -> dict[str, float]:
        metric = METRICS.build(kwargs | options)
        metric.dataset_meta = dict(classes=classes)
        metric.process({}, list(detected_samples(made)))
        return metric.evaluate(FEW_IMAGES)

    slow = compute(type='CocoMetric')
    assert {'coco/bbox_mAP', 'coco/segm_mAP_s', 'coco/AR@300', 'coco/class 1_precision'} <= {*slow}
    assert np.isnan(list(slow.values())).any()  # a class that is in no image
    for name in ('COCOeval', 'COCOevalMP'):
        monkeypatch.setattr(coco_metric, name, None)  # pycocotools is not to be used
    for use_mp_eval in (False, True):
        fast = compute(type='FastCocoMetric', use_mp_eval=use_mp_eval)
        assert list(slow) == list(fast)
        assert fast == pytest.approx(slow, abs=1e-9, nan_ok=True)


def detected_samples(made):
    """The generated detections in the form in which mmdet's detectors return theirs."""
    by_image = {image['id']: [] for image in made.ground_truth['images']}
    for detection in made.detections:
        by_image[detection['image_id']].append(detection)
    for image in made.ground_truth['images']:
        found = by_image[image['id']]
        boxes = torch.tensor([d['bbox'] for d in found], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # x, y, w, h -> x1, y1, x2, y2
        yield dict(
            img_id=image['id'],
            ori_shape=(image['height'], image['width']),
            pred_instances=dict(
                bboxes=boxes,
                scores=torch.tensor([d['score'] for d in found], dtype=torch.float64),
                labels=torch.tensor([d['category_id'] - 1 for d in found], dtype=torch.int64),
                masks=[d['segmentation'] for d in found],
            ),
        )


# --- tools/test.py and tools/evaluate.py ----------------------------------------------------


@dataclass
class Online:
    """What tools/test.py made of the predictions of a noisy model, in a folder with the data."""

    cwd: Path
    config: Path
    checkpoint: Path
    flags: list[str]
    dump: Path
    work_dir: Path
    out: Path
    metrics: dict


CASES = {
    'det': ('mask_rcnn_convnext_sample.py', 'NoisyDetector', ['--classwise']),
    'seg': ('upernet_convnext_sample.py', 'NoisySegmentor', []),
}


def run_online(task: str, cwd: Path) -> Online:
    base, model, flags = CASES[task]
    maker = load_tool('make_sample_data')
    maker.make_sample_data(cwd / 'data/sample', maker.Options(train=1, val=3, size=96, seed=0))
    config = cwd / f'{task}.py'
    config.write_text(NOISY.format(base=ROOT / 'configs/sample' / base, model=model))
    names = ('none.pth', 'kept/predictions.pt', 'online', 'online_out')
    checkpoint, dump, work_dir, out = (cwd / name for name in names)
    torch.save({'state_dict': {}}, checkpoint)
    args = [config, checkpoint, *flags, '--dump', dump, '--work-dir', work_dir, '--out', out]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        load_tool('test').main([*map(str, args), '--cfg-options', f'experiment_name=online_{task}'])
    metrics = read_json(work_dir / 'metrics.json')
    return Online(cwd, config, checkpoint, flags, dump, work_dir, out, metrics)


@pytest.fixture(scope='module')
def detected(tmp_path_factory) -> Online:
    return run_online('det', tmp_path_factory.mktemp('det'))


@pytest.fixture(scope='module')
def segmented(tmp_path_factory) -> Online:
    return run_online('seg', tmp_path_factory.mktemp('seg'))


@pytest.fixture(params=CASES)
def online(request, detected, segmented) -> Online:
    return {'det': detected, 'seg': segmented}[request.param]


def evaluate(*args) -> None:
    load_tool('evaluate').main([*map(str, args)])


def refusal(*args) -> str:
    """The one sentence that tools/evaluate.py ends with."""
    with pytest.raises(SystemExit) as caught:
        evaluate(*args)
    sentence = caught.value.code
    assert sentence.startswith('evaluate: ') and '\n' not in sentence
    return sentence


def test_segmentors_get_a_table_of_classes(segmented):
    classes = ('background', *'0123456789')
    counts = np.zeros((11, 11), int)  # true class, predicted class
    for path in (segmented.cwd / 'data/sample/ade20k/annotations/validation').iterdir():
        truth = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(int) - 1
        truth[truth < 0] = 255
        labels = noisy_labels(truth, f'{path.stem}.jpg')
        np.add.at(counts, (truth[truth < 255], labels[truth < 255]), 1)
    hits, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    assert 0 in true and 0 in true + predicted - hits  # a class that is in no image
    with np.errstate(invalid='ignore'):
        iou, accuracy = 100 * hits / (true + predicted - hits), 100 * hits / true

    rows = read_json(segmented.work_dir / 'per_class.json')
    assert [row['class'] for row in rows] == list(classes)
    for column, expected in (('IoU', iou), ('Acc', accuracy)):
        written = [np.nan if row[column] is None else row[column] for row in rows]
        assert written == pytest.approx(expected, abs=1e-3, nan_ok=True)
        assert segmented.metrics[f'm{column}'] == pytest.approx(np.nanmean(expected), abs=0.006)
    assert segmented.metrics['aAcc'] == pytest.approx(100 * hits.sum() / true.sum(), abs=0.006)
    with open(segmented.work_dir / 'per_class.csv', newline='') as file:
        table = list(csv.DictReader(file))
    assert table == [{k: '' if v is None else str(v) for k, v in row.items()} for row in rows]


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
            if path.name != 'metrics.json':
                assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
                compared += 1
    assert compared == (2 if 'coco/bbox_mAP' in metrics else 2 + 3)
    main_metrics = [metrics[n] for n in ('coco/bbox_mAP', 'coco/segm_mAP', 'mIoU') if n in metrics]
    assert all(0.1 < value < 90 for value in main_metrics) and main_metrics


def test_fast_evaluation_of_kept_predictions(detected, tmp_path, monkeypatch):
    monkeypatch.chdir(detected.cwd)
    evaluate(detected.config, detected.dump, '--work-dir', tmp_path, '--fast-eval', '--classwise')
    metrics = read_json(tmp_path / 'metrics.json')
    assert 'coco/7_precision' in metrics
    assert metrics == {name: detected.metrics[name] for name in metrics}


def test_fast_evaluation_says_what_to_install(detected, monkeypatch):
    monkeypatch.chdir(detected.cwd)
    monkeypatch.setitem(sys.modules, 'faster_coco_eval', None)
    sentence = refusal(detected.config, detected.dump, '--fast-eval')
    assert sentence.endswith('run: pip install faster-coco-eval')


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


def test_flags_that_do_not_apply_are_refused(segmented, monkeypatch):
    monkeypatch.chdir(segmented.cwd)
    for flag in ('--fast-eval', '--classwise'):
        sentence = refusal(segmented.config, segmented.dump, flag)
        assert f"expected CocoMetric or FastCocoMetric for {flag}, got 'IoUMetric'" in sentence


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
        (be_something_else, 'expected predictions that tools/test.py kept with --dump, got a file'),
        (lose_a_name, 'expected predictions that tools/test.py kept with --dump, got a file'),
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
    for path in online.work_dir.glob('per_class.*'):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    kept, shared = (
        predictions.read_predictions(str(p)) for p in (online.dump, tmp_path / 'shared.pt')
    )
    assert str(shared) == str(kept)


# --- test-time augmentation -----------------------------------------------------------------


def color_segmentor(name: str, tta: bool, data_root: Path):
    """A published segmentor with a classifier of colors as its network, and its test data."""
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    head = dict(in_channels=3, in_index=0, channels=3, num_convs=0, concat_input=False)
    cfg.model.backbone = dict(type='ColorBackbone')
    cfg.model.decode_head = cfg.model.pop('auxiliary_head') | dict(num_classes=3, **head)
    cfg.test_dataloader.dataset.data_root = str(data_root)
    if tta:
        evaluation_flags.set_tta(cfg)
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model).eval()
    return model, DATASETS.build(cfg.test_dataloader.dataset)


@pytest.fixture(scope='module')
def ade_like(tmp_path_factory) -> Path:
    """Two images in the layout of ADE20K, of sizes that are not near 512: 4 to 3, and 5 to 1."""
    root = tmp_path_factory.mktemp('ade')
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(150, 200), (60, 300)]):
        blocks = rng.integers(0, 256, (height // 20, width // 20, 3), np.uint8)
        image = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_CUBIC)
        labels = np.full((height, width), 1 + i, np.uint8)
        for folder, array, suffix in (('images', image, '.jpg'), ('annotations', labels, '.png')):
            path = root / folder / 'validation' / f'ADE_val_{i}{suffix}'
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), array)
    return root


# What the backbone sees of the two images: (height, width), in this order.
WINDOWS = {
    512: [[(512, 512)] * 2, [(410, 512)] * 6],
    640: [[(640, 640)] * 2, [(512, 640)] * 6],
}
AUGMENTED = {
    512: [
        [(256, 341), (384, 512), (512, 683), (640, 853), (768, 1024), (896, 1195)],
        [(205, 1024), (307, 1536), (410, 2048), (512, 2560), (614, 3072), (717, 3584)],
    ],
    640: [
        [(320, 427), (480, 640), (640, 853), (800, 1067), (960, 1280), (1120, 1493)],
        [(256, 1280), (384, 1920), (512, 2560), (640, 3200), (768, 3840), (896, 4480)],
    ],
}


@pytest.mark.parametrize(
    ('name', 'size'), [('upernet_convnext_t', 512), ('upernet_convnext_b_in22k', 640)]
)
@pytest.mark.parametrize('tta', [False, True], ids=['windows', 'augmented'])
def test_sizes_that_the_network_sees(name, size, tta, ade_like):
    model, dataset = color_segmentor(name, tta, ade_like)
    seen = (model.module if tta else model).backbone.seen
    for i, shape in enumerate([(150, 200), (60, 300)]):
        seen.clear()
        with torch.no_grad():
            (sample,) = model.test_step(pseudo_collate([dataset[i]]))
        if tta:
            assert seen == [s for s in AUGMENTED[size][i] for _ in ('as it is', 'flipped')]
        else:
            assert seen == WINDOWS[size][i]
        assert sample.pred_sem_seg.shape == shape


def test_augmented_predictions_are_averaged_shares(ade_like):
    model, dataset = color_segmentor('upernet_convnext_t', True, ade_like)
    segmentor = model.module
    torch.nn.init.normal_(segmentor.decode_head.conv_seg.weight, std=2)
    image = cv2.imread(str(ade_like / 'images/validation/ADE_val_0.jpg'))[..., ::-1]
    mean, std = (getattr(segmentor.data_preprocessor, k).flatten().numpy() for k in ('mean', 'std'))
    shares = 0
    for height, width in AUGMENTED[512][0]:
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        for flipped in (False, True):
            view = resized[:, ::-1] if flipped else resized
            inputs = torch.tensor((view - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
            with torch.no_grad():
                logits = segmentor.decode_head(segmentor.backbone(inputs))
            for shape in ((height, width), (150, 200)):
                logits = F.interpolate(logits, shape, mode='bilinear', align_corners=False)
            share = logits.softmax(1)
            shares = shares + (share.flip(3) if flipped else share) / 12
    with torch.no_grad():
        (sample,) = model.test_step(pseudo_collate([dataset[0]]))
    first, second = shares[0].topk(2, dim=0).values  # (150, 200) each
    clear = first - second > 1e-4
    assert clear.float().mean() > 0.99
    expected = shares[0].argmax(0)
    assert len(expected.unique()) == 3
    assert torch.equal(sample.pred_sem_seg.data.squeeze()[clear], expected[clear])


def test_augmentation_keeps_the_inference_mode_of_other_configs():
    cfg = Config.fromfile(ROOT / 'configs/sample/upernet_convnext_sample.py')
    cfg.model.test_cfg = ConfigDict(mode='slide', crop_size=(64, 64), stride=(32, 32))
    evaluation_flags.set_tta(cfg)
    assert cfg.model.module.test_cfg.mode == 'slide'
