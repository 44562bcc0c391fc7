"""The diagnosis of the doctor, a pure function of a description of an environment."""

import shlex
import sys
from dataclasses import replace

import pytest

from convnext_backbones._doctor_diagnosis import diagnose
from convnext_backbones._doctor_environment import COMPONENTS, Environment, Probe, _accepted
from convnext_backbones.io.tested_versions import PYTHON, TABLE, read_table

TESTED = read_table(TABLE.read_text())


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
        accepted={'python': '>=3.10'},
    )


def test_cpu_ops_under_a_gpu_are_a_problem(environment):
    assert diagnose(environment) == []
    probes = {
        **environment.probes,
        'torch': Probe(facts={'cuda': '12.8', 'nccl': True, 'gloo': True}),
        'mmcv ops': Probe(facts={'cuda': 'not available'}),
    }
    (problem,) = diagnose(replace(environment, probes=probes))
    assert problem.component == 'mmcv ops'
    assert 'without CUDA' in problem.sentence
    probes['mmcv ops'] = Probe(facts={'cuda': '12.8'})
    assert diagnose(replace(environment, probes=probes)) == []


def test_an_old_python_is_a_problem(environment):
    (problem,) = diagnose(replace(environment, python='3.9.18'))
    assert 'Python 3.9.18 is not supported' in problem.sentence
    assert problem.command == f'python{TESTED["python"]} -m venv .venv'
    # Known without the package's metadata too.
    assert _accepted()['python'] == PYTHON


def test_an_executable_with_a_space_is_quoted(environment):
    probes = {**environment.probes, 'ftfy': Probe('ModuleNotFoundError: x')}
    providers = {k: v for k, v in environment.providers.items() if k != 'ftfy'}
    env = replace(environment, executable='/my env/python', probes=probes, providers=providers)
    (problem,) = diagnose(env)
    assert shlex.split(problem.command)[:3] == ['/my env/python', '-m', 'pip']


def test_the_table_names_every_component():
    assert {component.distribution for component in COMPONENTS} < set(TESTED)
    assert all(set(c.needs) < {c.name for c in COMPONENTS} for c in COMPONENTS)
