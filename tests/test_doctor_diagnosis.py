"""The diagnosis of the doctor, a pure function of a description of an environment."""

import shlex
import sys
from dataclasses import replace

import pytest

from convnext_backbones._doctor_diagnosis import annotate, diagnose
from convnext_backbones._doctor_environment import COMPONENTS, Environment, Probe, _accepted
from convnext_backbones._doctor_probes import EARLY, PACKAGE
from convnext_backbones.doctor import tabulate
from convnext_backbones.io import tested_versions
from convnext_backbones.io.tested_versions import PYTHON, TABLE, read_table

TESTED = read_table(TABLE.read_text())


PROBED = {component.name: Probe() for component in COMPONENTS} | {
    'mmcv ops': Probe(facts=dict(provider='mmcv', description='', forced=False, cuda=''))
}


@pytest.fixture
def environment():
    modules = {component.distribution: component.module for component in COMPONENTS}
    probes = {component.name: Probe() for component in COMPONENTS}
    probes['torch'] = Probe(facts={'nccl': False, 'gloo': True})
    return Environment(
        executable=sys.executable,
        python='3.11.7',
        distributions=dict(TESTED),
        providers={module: (name,) for name, module in modules.items()},
        probes=probes,
        tested=TESTED,
        pythons=tested_versions.tested_pythons(),
        accepted={'python': '>=3.10'},
    )


def test_an_old_python_is_a_problem(environment):
    (problem,) = diagnose(replace(environment, python='3.9.18'))
    assert 'Python 3.9.18 is not supported' in problem.sentence
    assert problem.command == 'python3.11 -m venv .venv'
    # Known without the package's metadata too.
    assert _accepted()['python'] == PYTHON


@pytest.mark.parametrize('python', ['3.10.13', '3.11.7', '3.12.1', '3.13.0'])
def test_these_pythons_are_tested(environment, python):
    env = replace(environment, python=python)
    assert diagnose(env) == []
    assert tabulate(replace(env, probes=PROBED), [])[0].verdict == 'ok'


def test_a_python_without_find_loader_is_a_problem(environment):
    (problem,) = diagnose(replace(environment, python='3.14.0'))
    assert 'pkgutil.find_loader, which Python 3.14 removed' in problem.sentence
    assert problem.command == 'python3.11 -m venv .venv'
    # The forks' mmengine does without, and nobody has tried.
    fork = replace(
        environment, python='3.14.0', probes=PROBED, names={'mmengine': 'onedl-mmengine'}
    )
    assert 'Python' not in {problem.component for problem in diagnose(fork)}
    accepted = {'python': '>=3.10,<3.14'}
    (problem,) = diagnose(replace(environment, python='3.14.0', accepted=accepted))
    assert problem.sentence.endswith('needs Python >=3.10,<3.14.')


def test_the_range_of_mmcv_lite_holds_for_mmcv(environment):
    env = replace(environment, accepted={'mmcv-lite': '<2.2'})
    assert diagnose(env) == []
    old = replace(env, distributions={**TESTED, 'mmcv': '2.2.0'})
    (problem,) = diagnose(old)
    assert problem.sentence == 'mmcv 2.2.0 is not supported: convnext_backbones needs mmcv <2.2.'
    # A fork counts otherwise.
    names, tested = {'mmcv': 'onedl-mmcv'}, {**TESTED, 'onedl-mmcv': '2.3.6'}
    providers = {**env.providers, 'mmcv': ('onedl-mmcv',)}
    assert diagnose(replace(env, names=names, distributions=tested, providers=providers)) == []


def test_a_torch_outside_of_the_range_is_a_problem(environment):
    for version, expected in [('2.5.1', 1), ('2.6.0', 0), ('2.14.1+cu128', 0), ('2.15.0', 1)]:
        env = replace(
            environment,
            accepted={'torch': '<2.15,>=2.6'},
            distributions={**TESTED, 'torch': version},
        )
        problems = diagnose(env)
        assert len(problems) == expected
        for problem in problems:
            sentence = (
                f'torch {version} is not supported: convnext_backbones needs torch <2.15,>=2.6.'
            )
            assert problem.sentence == sentence


def test_there_are_no_notes_where_the_ops_do_not_load(environment):
    facts = dict(provider='torch', description='torch', early=False, broken=['mmcv is broken'])
    ops = {'mmcv ops': Probe(facts=facts)}
    env = replace(environment, probes={**environment.probes, **ops})
    assert [note.component for note in annotate(env)] == ['mmcv ops', 'mmcv ops']
    ops = {'mmcv ops': Probe('ImportError: x', facts)}
    assert annotate(replace(environment, probes={**environment.probes, **ops})) == []


def test_the_finder_at_start_up_is_recognized_by_its_name():
    assert repr(EARLY) in (PACKAGE / 'ops/convnext_backbones_ops.pth').read_text()


def test_an_executable_with_a_space_is_quoted(environment):
    probes = {**environment.probes, 'ftfy': Probe('ModuleNotFoundError: x')}
    providers = {k: v for k, v in environment.providers.items() if k != 'ftfy'}
    env = replace(environment, executable='/my env/python', probes=probes, providers=providers)
    (problem,) = diagnose(env)
    assert shlex.split(problem.command)[:3] == ['/my env/python', '-m', 'pip']


def test_the_table_names_every_component():
    assert {component.distribution for component in COMPONENTS} < set(TESTED)
    assert all(set(c.needs) < {c.name for c in COMPONENTS} for c in COMPONENTS)
