"""Compile the kernels once, check them in a process of their own, and keep them in the cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from filelock import FileLock
from mmengine.logging import print_log

from ..io.download import cache_folder
from ..io.processor import describe_processor

# Set to 0, it turns the kernels off.
VARIABLE = 'CONVNEXT_BACKBONES_NATIVE'
FOLDER = Path(__file__).parent
SOURCES = (
    *('block.c', 'block_bf16.c', 'maps.c', 'winograd.c', 'roi_align.c', 'train.c'),
    *('check.c', 'check_maps.c'),
)
COMPILERS = ('gcc', 'cc')
# No flag changes results: sums are in the order that the sources state.
FLAGS = ('-O3', '-fno-math-errno', '-fno-trapping-math', '-fopenmp', '-fPIC', '-std=gnu11', '-w')
MAPS = Path('/proc/self/maps')
# A runtime of its own would let its threads wait beside torch's, which slows both down.
OPENMP = re.compile(r'/\S*/lib(?:gomp|iomp5|omp)\b[^/\s]*\.so[^/\s]*$', re.M)
SECONDS = 120  # until a compiler or a check is given up
CHECK = (
    'import ctypes, sys; ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL); '
    'sys.exit(ctypes.CDLL(sys.argv[2])[sys.argv[3]]())'
)


class UnavailableError(Exception):
    """The kernels cannot be used here; the message is the reason."""


class Library:
    """The loaded kernels.

    Attributes:
        path: The file.
        functions: The library as ctypes sees it.
        build: Names sources, compiler and processor.
    """

    def __init__(self, path: Path, build: str) -> None:
        self.path = path
        self.build = build
        self.functions = ctypes.CDLL(str(path))


def load() -> Library | None:
    """Return the kernels, compiled if they are not yet; None, with a line in the log, if not."""
    found = _load(os.environ.get(VARIABLE, ''))
    return found if isinstance(found, Library) else None


def why_unavailable() -> str:
    """Return why :func:`load` returns None; empty if it does not."""
    found = _load(os.environ.get(VARIABLE, ''))
    return found if isinstance(found, str) else ''


@functools.cache
def _load(setting: str) -> Library | str:
    try:
        if setting == '0':
            raise UnavailableError(f'{VARIABLE}=0 turns them off')
        return _find_or_compile()
    except (UnavailableError, OSError, subprocess.SubprocessError) as error:
        print_log(
            f'The kernels in C are not used: {error}. Inference goes on with the operators of '
            'torch, which take longer.',
            logger='current',
            level=logging.INFO,
        )
        return str(error)


def _find_or_compile() -> Library:
    compiler, openmp = find_compiler(), find_openmp()
    folder = _private_folder(cache_folder() / 'kernels')
    build = _describe_build(compiler, openmp)
    path = folder / f'{build}.so'
    with FileLock(folder / f'{build}.lock', timeout=2 * SECONDS):
        if not path.exists():
            compile_kernels(compiler, openmp, path)
    _check_owner(path)
    return Library(path, build)


def find_compiler() -> str:
    """Return the path of a compiler: ``$CC``, or the first of :data:`COMPILERS`.

    Raises:
        UnavailableError: There is none, or not for this system.
    """
    if sys.platform != 'linux':
        raise UnavailableError(f'they are compiled on Linux, and this is {platform.system()}')
    if not torch.backends.openmp.is_available():
        raise UnavailableError('this torch works without OpenMP')
    wanted = os.environ.get('CC', '').split()[:1] or COMPILERS
    found = next((path for name in wanted if (path := shutil.which(name))), None)
    if found is None:
        raise UnavailableError(f'there is no C compiler: found none of {", ".join(wanted)}')
    return found


def find_openmp() -> Path:
    """Return the file of the OpenMP runtime that torch has loaded.

    Raises:
        UnavailableError: There is none.
    """
    torch.get_num_threads()  # loads it, where torch loads it late
    found = OPENMP.findall(MAPS.read_text())
    ours = [path for path in found if '/torch/' in path]
    if not found:
        raise UnavailableError("torch's OpenMP runtime was not found among the loaded libraries")
    return Path((ours or found)[0])


def compile_kernels(compiler: str, openmp: Path, path: Path) -> None:
    """Compile the kernels for this processor, check them, and move them to ``path``.

    Raises:
        UnavailableError: The compiler fails, or the kernels do not compute what they should.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        library = f'{folder}/kernels.so'
        try:
            _build(compiler, openmp, library)
        except UnavailableError as error:
            # Few processors have the instructions for bf16: its faults must not cost all the rest.
            _build(compiler, openmp, library, '-DWITHOUT_BF16')
            print_log(f'bf16 is left to torch: {error}.', logger='current', level=logging.WARNING)
        os.chmod(library, 0o700)
        os.replace(library, path)


def _build(compiler: str, openmp: Path, library: str, *flags: str) -> None:
    """Compile, link and check."""
    machine = '-mcpu=native' if platform.machine() == 'aarch64' else '-march=native'
    objects = [f'{library}.{Path(source).stem}.o' for source in SOURCES]
    for source, target in zip(SOURCES, objects, strict=True):
        _run([compiler, *FLAGS, *flags, machine, '-c', str(FOLDER / source), '-o', target])
    # Linked by its path: -fopenmp would add a second runtime.
    _run([compiler, '-shared', *objects, str(openmp), '-lm', '-o', library])
    for check in ('check_kernels', 'check_bf16'):
        _run([sys.executable, '-I', '-c', CHECK, str(openmp), library, check])


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, errors='replace', timeout=SECONDS, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        cause = next((line for line in lines if 'error' in line.lower()), (lines or [''])[-1])
        raise UnavailableError(
            f'{Path(command[0]).name} ended with status {done.returncode}: {cause.strip()}'
            if '-I' not in command
            else f'their check failed with status {done.returncode} {cause.strip()}'.rstrip()
        )


def _describe_build(compiler: str, openmp: Path) -> str:
    """Return a name that changes with anything that the compiled kernels depend on."""
    version = subprocess.run(
        [compiler, '--version'], capture_output=True, timeout=SECONDS, check=False
    ).stdout
    digest = hashlib.sha256()
    for file in sorted([*FOLDER.glob('*.c'), *FOLDER.glob('*.h')]):
        digest.update(file.name.encode() + file.read_bytes())
    described = [compiler, str(openmp), *FLAGS, describe_processor()]
    digest.update(version + '\0'.join(described).encode())
    return digest.hexdigest()[:24]


def _private_folder(folder: Path) -> Path:
    """Return a folder that only its owner can write to, since code is loaded from it.

    Raises:
        UnavailableError: It belongs to somebody else, or others can write to it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _check_owner(folder)
    return folder


def _check_owner(path: Path) -> None:
    status = path.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise UnavailableError(
            f'expected {str(path)!r} to belong to this user and to be writable by nobody else'
        )
