"""The batch size follows from the memory."""

import pytest
import torch

from convnext_backbones.authoring.machine import (
    GIB,
    LEAST,
    MOST,
    MOST_ON_CPU,
    Machine,
    this_machine,
)
from convnext_backbones.models.variants import VARIANTS

TINY, LARGE = VARIANTS['tiny'], VARIANTS['large']


@pytest.mark.parametrize('gib, expected', [(8, 2), (24, 2), (80, 9)])
def test_a_gpu_holds_as_many_images_as_its_memory_allows(gib, expected):
    number, reason = Machine(True, gib * GIB).batch_size(TINY, 1024 * 1024)
    assert number == expected
    assert f'{gib} GiB' in reason


def test_larger_backbones_and_images_get_fewer_images():
    machine = Machine(True, 48 * GIB)
    assert machine.batch_size(LARGE, 512 * 512)[0] < machine.batch_size(TINY, 512 * 512)[0]
    assert machine.batch_size(TINY, 32 * 32)[0] == MOST
    assert machine.batch_size(LARGE, 4096 * 4096)[0] == LEAST


def test_a_cpu_takes_few_images():
    number, reason = Machine(False, 1000 * GIB).batch_size(TINY, 256 * 256)
    assert number == MOST_ON_CPU
    assert 'no GPU' in reason


def test_this_machine_is_described(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    machine = this_machine()
    assert not machine.gpu
    assert machine.memory > 0
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    sizes = iter([80 * GIB, 24 * GIB])
    monkeypatch.setattr(
        torch.cuda,
        'get_device_properties',
        lambda index: type('Properties', (), dict(total_memory=next(sizes))),
    )
    assert this_machine().memory == 24 * GIB
