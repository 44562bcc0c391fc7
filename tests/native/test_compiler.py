"""Compiling the kernels: once, in private folders, checked, and never a reason to fail."""

import ctypes
import os
import shutil
import stat
import subprocess

import pytest
import torch
from support.native import needs_compiler

from convnext_backbones.native import compiler


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """A cache of its own, and nothing remembered of what was tried before."""
    monkeypatch.setenv('CONVNEXT_BACKBONES_CACHE', str(tmp_path / 'cache'))
    monkeypatch.delenv(compiler.VARIABLE, raising=False)
    compiler._load.cache_clear()
    yield tmp_path / 'cache' / 'kernels'
    compiler._load.cache_clear()


@pytest.fixture
def broken_compiler(tmp_path, monkeypatch):
    """Make ``$CC`` a script that passes its arguments on to gcc after some shell code."""

    def make(code):
        path = tmp_path / 'broken'
        path.write_text(f'#!/bin/sh\n{code}\nexec {shutil.which("gcc")} "$@"\n')
        path.chmod(0o755)
        monkeypatch.setenv('CC', str(path))

    return make


@needs_compiler
def test_compiled_once(fresh):
    library = compiler.load()
    assert compiler.why_unavailable() == ''
    assert library.functions.check_kernels() == 0
    assert [path.suffix for path in sorted(fresh.iterdir())] == ['.lock', '.so']
    written = library.path.stat()
    assert stat.S_IMODE(fresh.stat().st_mode) & 0o022 == 0
    compiler._load.cache_clear()
    assert compiler.load().path.stat() == written
    assert library.build in library.path.name


@needs_compiler
@pytest.mark.parametrize('change', ['flags', 'cpu'])
def test_compiled_anew_after_changes(fresh, monkeypatch, change):
    library = compiler.load()
    compiler._load.cache_clear()

    def copy(compiler, openmp, path):
        shutil.copy(library.path, path)

    monkeypatch.setattr(compiler, 'compile_kernels', copy)
    if change == 'flags':
        monkeypatch.setattr(compiler, 'FLAGS', (*compiler.FLAGS, '-g'))
    else:
        monkeypatch.setattr(compiler, 'describe_processor', lambda: 'another')
    assert compiler.load().path != library.path
    assert len(list(fresh.glob('*.so'))) == 2


def test_turned_off(fresh, monkeypatch):
    monkeypatch.setenv(compiler.VARIABLE, '0')
    assert compiler.load() is None
    assert compiler.why_unavailable() == f'{compiler.VARIABLE}=0 turns them off'
    assert not fresh.exists()


def test_no_compiler(monkeypatch, caplog):
    monkeypatch.setenv('CC', 'no-such-compiler')
    assert compiler.load() is None
    assert 'found none of no-such-compiler' in compiler.why_unavailable()


@pytest.mark.parametrize('system', ['darwin', 'win32'])
def test_other_systems(monkeypatch, system):
    monkeypatch.setattr(compiler.sys, 'platform', system)
    assert compiler.load() is None
    assert 'compiled on Linux' in compiler.why_unavailable()


def test_no_openmp(monkeypatch, tmp_path):
    maps = tmp_path / 'maps'
    maps.write_text('7f0-7f1 r-xp 00000000 00:00 0 /usr/lib/libc.so.6\n')
    monkeypatch.setattr(compiler, 'MAPS', maps)
    assert compiler.load() is None
    assert 'OpenMP runtime was not found' in compiler.why_unavailable()


@needs_compiler
def test_the_runtime_of_torch_is_shared():
    """A second one would leave its threads waiting beside torch's."""
    library = compiler.load()
    torch.ones(10**6).exp()
    with open('/proc/self/maps') as file:
        loaded = set(compiler.OPENMP.findall(file.read()))
    assert str(compiler.find_openmp()) in loaded
    needed = subprocess.run(['ldd', library.path], capture_output=True, text=True).stdout
    assert os.path.basename(compiler.find_openmp()) in needed


@needs_compiler
@pytest.mark.parametrize(
    ('code', 'reason'),
    [
        ('echo "x.c:1: error: of a kind" >&2; exit 1', 'x.c:1: error: of a kind'),
        # What the processor lacks, or a compiler's fault: here a check that returns 3.
        ('case "$*" in *check.c*) set -- "$@" -Dcheck_kernels=other;; esac', 'check failed'),
        ('exit 7', 'status 7'),
    ],
    ids=['error', 'check', 'status'],
)
def test_failures_leave_torch_to_compute(fresh, broken_compiler, code, reason):
    broken_compiler(code)
    assert compiler.load() is None
    assert reason in compiler.why_unavailable()
    assert not list(fresh.glob('*.so'))
    assert [path.suffix for path in fresh.iterdir()] in ([], ['.lock'])


@needs_compiler
def test_wrong_kernels_are_refused(fresh, broken_compiler):
    """A compiler that gets a constant of GELU wrong."""
    broken_compiler(
        'for last; do :; done\ncase "$*" in *block.c*) set -- "$@" "-Dgelu(x)=((x)*0.5f)";; esac'
    )
    assert compiler.load() is None
    assert compiler.why_unavailable()
    assert not list(fresh.glob('*.so'))


@needs_compiler
def test_without_bf16_if_only_that_is_wrong(fresh, broken_compiler):
    """Its instructions are rare, and the other kernels must not suffer from its faults."""
    broken_compiler(
        'case "$*" in *-DWITHOUT_BF16*) ;; *check.c*) set -- "$@" -Dcheck_bf16=other;; esac'
    )
    library = compiler.load()
    assert library is not None, compiler.why_unavailable()
    assert not library.functions.block_bf16_supported()


@needs_compiler
def test_a_cache_that_others_can_write_to_is_refused(fresh):
    fresh.mkdir(parents=True)
    fresh.chmod(0o777)
    assert compiler.load() is None
    assert 'writable by nobody else' in compiler.why_unavailable()
    fresh.chmod(0o700)
    compiler._load.cache_clear()
    library = compiler.load()
    library.path.chmod(0o666)
    compiler._load.cache_clear()
    assert compiler.load() is None


@needs_compiler
def test_a_cache_that_cannot_be_written(fresh, monkeypatch):
    fresh.parent.mkdir(parents=True)
    fresh.write_text('a file in the place of the folder')
    assert compiler.load() is None
    assert compiler.why_unavailable()


@needs_compiler
@pytest.mark.parametrize('lanes', [4, 16])
def test_other_vectors(tmp_path, lanes):
    """The code for AVX-512 and for plain SSE computes the same, whatever this processor has.

    Vectors of 16 are emulated by the compiler where the instructions are missing.
    """
    flags = {4: ['-mno-avx'], 16: ['-DLANES=16', '-DROWS=12']}[lanes]
    library = tmp_path / 'kernels.so'
    sources = [str(compiler.FOLDER / source) for source in compiler.SOURCES]
    command = ['gcc', *compiler.FLAGS, *flags, '-shared', *sources, '-lm', '-o', str(library)]
    subprocess.run(command, check=True)
    assert ctypes.CDLL(str(library)).check_kernels() == 0
