"""The report of trainings: the numbers of the records, and what it says of incomplete ones."""

import html
import re
from pathlib import Path

import pytest
from support.training_records import CONFIG, EVIL, training_rows, write_run

from convnext_backbones.reports.training_page import write_training_page
from convnext_backbones.reports.training_runs import progress, read_runs, speed


def page_of(*folders: Path) -> str:
    path = folders[0].parent / 'report.html'
    write_training_page(path, folders)
    return path.read_text()


def section(page: str, title: str) -> str:
    """The contents of a section, without its charts."""
    (found,) = re.findall(rf'<h2>{title}</h2>(.*?)</section>', page, re.DOTALL)
    return re.sub(r'<svg.*?</svg>', '<svg></svg>', found, flags=re.DOTALL)


def facts_of(part: str) -> dict[str, str]:
    return {n: html.unescape(v) for n, v in re.findall('<dt>(.*?)</dt><dd>(.*?)</dd>', part)}


def rows_of(part: str) -> dict[str, list[str]]:
    rows = [re.findall(r'<td[^>]*>(.*?)</td>', row) for row in re.findall('<tr>.*', part)]
    return {row[0]: row[1:] for row in rows if row}


def labels(page: str) -> list[str]:
    return re.findall('aria-label="(.*?) over the iterations"', page)


def test_the_numbers_are_those_of_the_records(tmp_path):
    page = page_of(write_run(tmp_path / 'a', finished='2026-01-02T04:00:00+00:00'))
    overview = facts_of(section(page, 'Overview'))
    assert overview['Progress'] == 'finished at iteration 40 of 40'
    assert overview['Seed'] == '1234567' and overview['GPUs'] == '2 x NVIDIA H100'
    assert overview['Images per iteration'] == '8'  # 4 in each of 2 processes
    assert EVIL in overview['Command'] and EVIL not in page
    assert rows_of(section(page, 'Losses')) == {
        'loss': ['0.0750', '40', '0.0750', '40'],
        'val/loss': ['0.2250', '40', '0.2250', '40'],
        'loss_cls': ['0.0500', '40', '0.0500', '40'],
        'loss_bbox': ['0.0250', '40', '0.0250', '40'],
    }
    # The sine of 20 is higher than that of 40; -1 says that nothing was measured.
    assert rows_of(section(page, 'Validation')) == {
        'coco/bbox_mAP': ['0.7451', '40', '0.9129', '20']
    }
    times = facts_of(section(page, 'Speed and memory'))
    assert times['Images per second'] == '16' and times['Seconds per iteration'] == '0.5'
    assert times['Peak GPU memory (MB)'] == '1040' and times['Waiting for data (%)'] == '14.29'
    assert labels(page) == [
        'loss',
        'terms of the loss',
        'learning rate',
        'coco/bbox',
        'images per second',
        'waiting for data (%)',
    ]


def test_each_row_speaks_for_the_iterations_since_the_row_before(tmp_path):
    rows = [
        dict(split='train', step=10, time=2.0, data_time=1.0),
        dict(split='train', step=40, time=1.0, data_time=0.0),
    ]
    (run,) = read_runs([write_run(tmp_path / 'a', rows)])
    measured = speed(run)
    assert measured.hours == pytest.approx((10 * 2 + 30 * 1) / 3600)
    assert measured.waiting == pytest.approx(10 / 50)
    assert measured.memory is None
    assert measured.images_per_second == pytest.approx(8 / 1.5)


def test_environment_and_config(tmp_path):
    page = page_of(write_run(tmp_path / 'a'))
    environment = facts_of(section(page, 'Environment'))
    assert environment['torch'] == '2.13.0' and environment['mmdet'] == '–'
    assert environment['commit of the package'] == 'abc123, with local changes'
    assert environment['commit of the config'] == '–'
    config = section(page, 'Config')
    assert 'change in mmdet::a.py:' in config
    assert '<span class="removed">-lr = 1</span>' in config
    assert html.escape(CONFIG, quote=False).splitlines()[1] in config


def test_the_config_is_not_executed(tmp_path):
    marker = tmp_path / 'executed'
    text = f"open({str(marker)!r}, 'w')\na = __import__('os').remove('x')\n"
    page = page_of(write_run(tmp_path / 'a', config=text), write_run(tmp_path / 'b', config=text))
    assert not marker.exists() and 'The configs are the same.' in page


def test_several_trainings_share_axes_and_have_columns(tmp_path):
    one = write_run(tmp_path / 'one', last_step=40)
    config = CONFIG.replace('lr = 2', 'lr = 7').replace("'runs/a'", "'runs/b'")
    two = write_run(tmp_path / 'two', training_rows(20), config, last_step=40)
    page = page_of(one, two)
    assert labels(page) == [
        'loss',
        'loss_cls',
        'loss_bbox',
        'learning rate: highest',
        'learning rate: lowest',
        'coco/bbox: mAP',
        'images per second',
        'waiting for data (%)',
    ]
    (loss,) = re.findall('<svg[^>]*aria-label="loss over.*?</svg>', page, re.DOTALL)
    assert '>one</text>' in loss and '>two</text>' in loss and '>validation</text>' in loss
    overview = rows_of(section(page, 'Overview'))
    assert overview['Progress'] == [
        f'iteration {step} of 40; it is running, or was interrupted' for step in (40, 20)
    ]
    losses = section(page, 'Losses').split('The lowest values')
    assert rows_of(losses[0])['loss'] == ['0.075 at 40', '0.15 at 20']
    validation = section(page, 'Validation').split('The highest values')
    assert rows_of(validation[0])['coco/bbox: mAP'] == ['0.7451 at 40', '0.9129 at 20']
    assert rows_of(validation[1])['coco/bbox: mAP'] == ['0.9129 at 20', '0.9129 at 20']
    assert rows_of(section(page, 'Config')) == dict(lr=['2', '7'])
    assert rows_of(section(page, 'Speed and memory'))['Images per second'] == ['16'] * 2


def test_names_that_clash_become_paths(tmp_path):
    folders = [write_run(tmp_path / name / 'run') for name in 'ab']
    assert [run.name for run in read_runs(folders)] == list(map(str, folders))


def test_a_training_that_has_only_begun(tmp_path):
    page = page_of(write_run(tmp_path / 'a', []))
    for title, sentence in {
        'Overview': 'has begun; no iteration is logged yet',
        'Losses': 'No loss is logged yet.',
        'Learning rates': 'No learning rate is logged yet.',
        'Validation': 'No validation is logged yet.',
        'Speed and memory': 'No iteration is logged yet.',
    }.items():
        assert sentence in section(page, title)
    assert '<svg' not in page
    (tmp_path / 'a' / 'results.csv').unlink()
    assert 'No loss is logged yet.' in page_of(tmp_path / 'a')


def test_a_training_without_validation(tmp_path):
    config = CONFIG.replace('val_dataloader', 'unused')
    page = page_of(write_run(tmp_path / 'a', training_rows(validations=()), config))
    assert 'No validation is planned in the config.' in section(page, 'Validation')


def test_an_interrupted_training_that_was_resumed(tmp_path):
    earlier = [dict(started='2026-01-01', first_step=0, seed=1234567, command='first')]
    folder = write_run(tmp_path / 'a', training_rows(30), first_step=20, earlier_starts=earlier)
    page = page_of(folder)
    assert 'Iteration 30 of 40; it is running, or was interrupted' in page
    environment = section(page, 'Environment')
    assert 'it has 2 starts' in environment
    assert rows_of(environment)['2026-01-01'] == ['0', '1234567', 'first']
    # A process that died while it wrote a row.
    with (folder / 'results.csv').open('a') as file:
        file.write('train,31,0.')
    assert page_of(folder) == page


def test_epochs_are_said(tmp_path):
    rows = [dict(split='train', step=6, epoch=2, iter=3, loss=1.0)]
    config = CONFIG.replace('max_iters=40', 'max_epochs=12')
    (run,) = read_runs([write_run(tmp_path / 'a', rows, config)])
    assert progress(run) == 'iteration 6 of 40, epoch 2 of 12; it is running, or was interrupted'


def test_what_the_records_do_not_say_is_a_dash(tmp_path):
    folder = write_run(tmp_path / 'a', config='train_dataloader = make()\n')
    (folder / 'environment.json').write_text('{"git": 3, "versions": [], "hardware": null}')
    page = page_of(folder)
    assert facts_of(section(page, 'Overview'))['Images per iteration'] == '–'
    assert 'environment.json says nothing about its base' in section(page, 'Config')
    assert 'images per second' not in labels(page)
    (folder / 'environment.json').unlink()
    (folder / 'config.py').unlink()
    page = page_of(folder)
    assert 'has no environment.json' in page and 'has no config.py' in page


def test_a_base_that_could_not_be_loaded_is_said(tmp_path):
    page = page_of(write_run(tmp_path / 'a', base=dict(missing='the config file has no _base_')))
    assert 'is not known: the config file has no _base_.' in section(page, 'Config')


def test_a_config_that_is_no_python_is_shown_and_said(tmp_path):
    folders = [write_run(tmp_path / name, config='a = (') for name in 'ab']
    assert 'config.py is not Python that can be read.' in page_of(folders[0])
    assert 'Not read, as config.py is missing or no Python: a, b.' in page_of(*folders)


@pytest.mark.parametrize(
    ('file', 'content', 'message'),
    [
        ('results.csv', 'split,step\ntrain,1,2\n', 'got more'),
        ('results.csv', 'split,step\ntrain,x\n', 'could not convert'),
        ('results.csv', 'split,loss\ntrain,1\n', 'a split and a step in each row'),
        ('results.csv', 'split,step\ntrain,nan\n', 'a split and a step in each row'),
        ('environment.json', '[]', 'expected named entries'),
        ('environment.json', '{', 'cannot read them'),
    ],
)
def test_damaged_records_are_one_sentence(tmp_path, file, content, message):
    folder = write_run(tmp_path / 'a')
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        page_of(folder)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ValueError, match='expected the work dir of a training, .* got .*absent'):
        page_of(tmp_path / 'absent')


def test_numbers_that_are_not_finite(tmp_path):
    rows = [*training_rows(), dict(split='train', step=41, loss=float('nan'), time=float('nan'))]
    page = page_of(write_run(tmp_path / 'a', rows))
    assert rows_of(section(page, 'Losses'))['loss'][0] == '0.0750'
    assert facts_of(section(page, 'Speed and memory'))['Hours of iterations'] == '–'
