"""The choice among candidates: by a clock of the tests' own, kept, and never a wrong candidate."""

import copy
import errno
import json
import pickle
import threading

import pytest
import torch
from support.backbones import build
from support.native import needs_compiler

from convnext_backbones.inference import tuning_cache
from convnext_backbones.inference.optimize import optimize_for_inference
from convnext_backbones.inference.tuning import Site, Tuner, choices_of
from convnext_backbones.inference.tuning_cache import TuningCache

SITE = Site('block', torch.float32, (96, 384), 4000)
VALUES = torch.tensor([1.0, -2.0, 0.5])


class Clock:
    """Seconds that pass only while a candidate computes."""

    def __init__(self):
        self.now = 0.0
        self.runs = []

    def __call__(self):
        return self.now

    def candidate(self, name, seconds, output=VALUES):
        def compute():
            self.now += seconds
            self.runs.append(name)
            if isinstance(output, Exception):
                raise output
            return output

        return compute

    def candidates(self, **seconds):
        return {name: self.candidate(name, value) for name, value in seconds.items()}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'cache' / 'tuning.json'


def make(clock, path, mode='auto'):
    return Tuner(mode, TuningCache(path), clock)


def choose(tuner, candidates, site=SITE, default='native'):
    return tuner.choose(site, candidates, default=default, reference='plain')


def entries(path):
    (section,) = json.loads(path.read_text())['sections'].values()
    return section


def test_the_fastest_is_chosen_once(clock, path):
    candidates = clock.candidates(native=0.2, onednn=0.1, plain=0.3)
    tuner = make(clock, path)
    assert choose(tuner, candidates) == 'onednn'
    assert set(clock.runs) == {'native', 'onednn', 'plain'}
    clock.runs.clear()
    assert choose(tuner, candidates) == 'onednn'
    assert not clock.runs
    (choice,) = tuner.choices()
    assert choice == dict(
        site='block 96x384, 4096 positions, float32',
        choice='onednn',
        milliseconds=dict(native=200.0, onednn=100.0, plain=300.0),
        cached=False,
    )


def test_another_process_takes_it_from_the_cache(clock, path):
    candidates = clock.candidates(native=0.2, onednn=0.1, plain=0.3)
    choose(make(clock, path), candidates)
    clock.runs.clear()
    other = make(clock, path)
    assert choose(other, candidates) == 'onednn'
    assert not clock.runs
    assert other.choices()[0]['cached']


def test_a_gain_within_noise_is_none(clock, path):
    for onednn, expected in ((0.096, 'native'), (0.09, 'onednn')):
        site = Site('block', torch.float32, (1,), round(10000 * onednn))
        candidates = clock.candidates(native=0.1, onednn=onednn, plain=0.2)
        path.unlink(missing_ok=True)
        assert choose(make(clock, path), candidates, site) == expected


@pytest.mark.parametrize(
    'output',
    [
        VALUES + 1e-3,
        VALUES * torch.nan,
        VALUES * torch.inf,
        torch.zeros(4),
        RuntimeError('oneDNN has no such format'),
    ],
    ids=['wrong', 'NaN', 'inf', 'shape', 'error'],
)
def test_wrong_candidates_drop_out(clock, path, output):
    candidates = dict(
        native=clock.candidate('native', 0.1, output), **clock.candidates(onednn=0.2, plain=0.3)
    )
    assert choose(make(clock, path), candidates) == 'onednn'
    assert clock.runs.count('native') == 1
    assert 'native' not in entries(path)['block 96x384, 4096 positions, float32']['milliseconds']


def test_rounding_is_allowed(clock, path):
    candidates = dict(
        native=clock.candidate('native', 0.1, VALUES + 2e-5), **clock.candidates(plain=0.3)
    )
    assert choose(make(clock, path), candidates) == 'native'


def test_off(clock, path):
    tuner = make(clock, path, 'off')
    candidates = clock.candidates(native=0.2, onednn=0.1, plain=0.3)
    assert choose(tuner, candidates) == 'native'
    assert not clock.runs and not path.parent.exists() and not tuner.choices()


def test_full_measures_anew_and_serves_auto(clock, path):
    candidates = clock.candidates(native=0.2, onednn=0.1, plain=0.3)
    choose(make(clock, path), candidates)
    faster = clock.candidates(native=0.2, onednn=0.1, plain=0.3, compiled=0.05)
    assert choose(make(clock, path, 'full'), faster) == 'compiled'
    assert entries(path)['block 96x384, 4096 positions, float32']['mode'] == 'full'
    clock.runs.clear()
    assert choose(make(clock, path, 'full'), faster) == 'compiled'
    assert choose(make(clock, path), faster) == 'compiled'
    assert not clock.runs
    # Of the candidates that auto has, full knows the fastest; its entry stays.
    assert choose(make(clock, path), candidates) == 'onednn'
    assert not clock.runs
    assert entries(path)['block 96x384, 4096 positions, float32']['choice'] == 'compiled'


def test_what_a_choice_depends_on(clock, path, monkeypatch):
    candidates = clock.candidates(native=0.2, onednn=0.1, plain=0.3)
    choose(make(clock, path), candidates)

    def is_measured(site=SITE):
        clock.runs.clear()
        choose(make(clock, path), candidates, site)
        return bool(clock.runs)

    assert not is_measured(Site('block', torch.float32, (96, 384), 4200))
    assert is_measured(Site('block', torch.float32, (96, 384), 9000))
    assert is_measured(Site('block', torch.bfloat16, (96, 384), 4000))
    assert is_measured(Site('block V2', torch.float32, (96, 384), 4000))
    assert is_measured(Site('block', torch.float32, (192, 768), 4000))
    for module, name, value in (
        (tuning_cache, 'describe_processor', lambda: 'another'),
        (tuning_cache, 'load', lambda: None),
        (tuning_cache.torch, '__version__', '1.0'),
        (tuning_cache.torch, 'get_num_threads', lambda: 77),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            if name == 'load' and tuning_cache._section().endswith('none'):
                patch.setattr(module, name, lambda: type('Library', (), dict(build='x')))
            assert is_measured(), name
        assert not is_measured()


@pytest.mark.parametrize(
    'content',
    [
        '',
        '{',
        '[]',
        '{"format": 1}',
        '{"format": 1, "sections": {"a": {"b": {}}}}',
        '\0' * 9,
        '[' * 100_000,
    ],
)
def test_a_damaged_file_is_replaced(clock, path, content):
    path.parent.mkdir()
    path.write_text(content)
    candidates = clock.candidates(native=0.2, onednn=0.1, plain=0.3)
    assert choose(make(clock, path), candidates) == 'onednn'
    assert entries(path)


@pytest.mark.parametrize('change', [{'choice': []}, {'mode': {}}, {'milliseconds': 7}])
def test_entries_of_other_kinds_are_replaced(clock, path, change):
    candidates = clock.candidates(native=0.2, onednn=0.1, plain=0.3)
    choose(make(clock, path), candidates)
    content = json.loads(path.read_text())
    (section,) = content['sections'].values()
    section[SITE.name].update(change)
    path.write_text(json.dumps(content))
    clock.runs.clear()
    assert choose(make(clock, path), candidates) == 'onednn'
    assert clock.runs and entries(path)[SITE.name]['choice'] == 'onednn'


def test_another_format_is_replaced(clock, path):
    path.parent.mkdir()
    path.write_text('{"format": 99, "sections": 7}')
    choose(make(clock, path), clock.candidates(native=0.2, onednn=0.1, plain=0.3))
    assert entries(path)


def test_a_cache_that_cannot_be_written(clock, path):
    path.parent.write_text('a file in the place of the folder')
    tuner = make(clock, path)
    candidates = clock.candidates(native=0.2, onednn=0.1, plain=0.3)
    assert choose(tuner, candidates) == 'onednn'
    clock.runs.clear()
    assert choose(tuner, candidates) == 'onednn'
    assert not clock.runs


def test_a_folder_that_cannot_be_searched(clock, path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, 'Permission denied', str(self))

    for name in ('stat', 'open', 'read_text', 'mkdir'):
        monkeypatch.setattr(type(path), name, refuse)
    assert (
        choose(make(clock, path), clock.candidates(native=0.2, onednn=0.1, plain=0.3)) == 'onednn'
    )


def test_locks_that_the_disk_lacks(clock, path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(tuning_cache.FileLock, 'acquire', refuse)
    assert (
        choose(make(clock, path), clock.candidates(native=0.2, onednn=0.1, plain=0.3)) == 'onednn'
    )


def test_what_another_has_measured_meanwhile_counts(clock, path):
    first, second = make(clock, path), make(clock, path)
    candidates = clock.candidates(native=0.2, onednn=0.1, plain=0.3)
    choose(second, candidates, Site('linear', torch.float32, (8, 8), 64))
    assert choose(first, candidates) == 'onednn'
    assert choose(second, clock.candidates(native=0.1, onednn=0.2, plain=0.3)) == 'onednn'


@pytest.mark.parametrize(
    'output',
    [VALUES * torch.nan, VALUES * torch.inf, RuntimeError('out of memory')],
    ids=['NaN', 'inf', 'error'],
)
def test_without_a_reference_nothing_is_kept(clock, path, output):
    """Neither an image with NaN nor a lack of memory decides for later processes."""
    candidates = dict(
        clock.candidates(native=0.2, onednn=0.1), plain=clock.candidate('plain', 0.3, output)
    )
    tuner = make(clock, path)
    assert choose(tuner, candidates) == 'native'
    assert clock.runs == ['plain'] and not path.exists()
    assert (
        choose(make(clock, path), clock.candidates(native=0.2, onednn=0.1, plain=0.3)) == 'onednn'
    )


def test_a_candidate_that_fails_later_drops_out(clock, path):
    outputs = iter([VALUES])

    def native():
        clock.now += 0.05
        try:
            return next(outputs)
        except StopIteration:
            raise RuntimeError('out of memory') from None

    candidates = dict(native=native, **clock.candidates(onednn=0.2, plain=0.3))
    assert choose(make(clock, path), candidates) == 'onednn'
    assert set(entries(path)[SITE.name]['milliseconds']) == {'onednn', 'plain'}


def test_entries_of_others_stay(clock, path):
    """Two processes that began with the same file."""
    first, second = make(clock, path), make(clock, path)
    candidates = clock.candidates(native=0.2, onednn=0.1, plain=0.3)
    other = Site('linear', torch.float32, (8, 8), 64)
    choose(first, candidates)
    choose(second, candidates, other)
    assert len(entries(path)) == 2


def test_the_budget_ends(clock, path):
    tuner = make(clock, path)
    candidates = clock.candidates(native=2.0, onednn=1.0, plain=3.0)
    sites = [Site('block', torch.float32, (n,), 1) for n in range(3)]
    assert [choose(tuner, candidates, site) for site in sites] == ['onednn', 'native', 'native']
    assert len(entries(path)) == 1


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(path, copied):
    tuner = Tuner('auto', TuningCache(path))
    other = copied(tuner)
    candidates = {'native': lambda: VALUES, 'plain': lambda: VALUES}
    assert other.mode == 'auto' and choose(other, candidates) in candidates
    assert path.exists() and not tuner.choices()


def test_threads_measure_once(clock, path):
    tuner = make(clock, path)
    candidates = clock.candidates(native=0.2, onednn=0.1, plain=0.3)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(choose(tuner, candidates))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ['onednn'] * 8
    runs = len(clock.runs)
    choose(tuner, candidates)
    assert len(clock.runs) == runs


@needs_compiler
@torch.no_grad()
def test_a_backbone_is_tuned(miniature, monkeypatch, tmp_path):
    """The same choice serves equal blocks, and the maps are those of the network."""
    monkeypatch.setenv('CONVNEXT_BACKBONES_CACHE', str(tmp_path))
    net = build(miniature).eval()
    fast = optimize_for_inference(net, tune='auto')
    images = torch.randn(1, 3, 64, 96)
    maps = fast(images)
    for actual, expected in zip(maps, net(images), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    choices = choices_of(fast)
    assert [choice['site'].split(',')[0] for choice in choices] == [
        'block 8x32',
        'block 16x64',
        'block 24x96',
        'block 32x128',
    ]
    for choice in choices:
        assert set(choice['milliseconds']) == {'native', 'onednn', 'linear', 'plain'}
    again = fast(images)
    assert all(map(torch.equal, maps, again))
    other = optimize_for_inference(net, tune='auto')
    other(images)
    assert [c['choice'] for c in choices_of(other)] == [c['choice'] for c in choices]
    assert all(choice['cached'] for choice in choices_of(other))
    assert choices_of(net) == []
