"""Compile mmcv with its ops, and cache the wheels by everything that they depend on.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

from dev.environment import SetupError, Venv, locked


def wheel_folder(torch_build: str, mmcv: str, python_tag: str) -> Path:
    """Return the folder for wheels of mmcv for this Python, torch (with local tag) and machine."""
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    cache = os.environ.get('CONVNEXT_BACKBONES_CACHE') or Path(home) / 'convnext_backbones'
    key = f'{python_tag}-torch{torch_build}-{mmcv.replace("==", "")}-{platform.machine()}'
    return Path(cache).expanduser().absolute() / 'wheels' / key


def parse_step(line: str) -> tuple[int, int] | None:
    """Read ninja's ``[12/77]`` from a line of pip's verbose output; None if it has none."""
    match = re.match(r'\s*\[(\d+)/(\d+)\]\s', line)
    return (int(match[1]), int(match[2])) if match else None


class Progress:
    """Progress of a build: one line, rewritten, on a terminal; elsewhere a line per tenth."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock = stream, clock
        self.start = clock()
        self.shown_tenth = 0

    def feed(self, line: str) -> None:
        """Process a line of the build's output."""
        step = parse_step(line)
        if step is None:
            return
        done, total = step
        elapsed = self.clock() - self.start
        text = (
            f'      compiling {done}/{total}, {minutes(elapsed)} elapsed, '
            f'about {minutes(elapsed / done * (total - done))} to go'
        )
        tenth = 10 * done // total
        if self.stream.isatty():
            self.stream.write(f'\r{text}\x1b[K' + '\n' * (done == total))
        elif tenth > self.shown_tenth:
            self.stream.write(f'{text}\n')
        self.shown_tenth = tenth
        self.stream.flush()


def minutes(seconds: float) -> str:
    """Format a duration as ``12:34``."""
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


def build_mmcv(venv: Venv, mmcv: str, folder: Path, log: Path) -> Path:
    """Compile mmcv, given as ``NAME==VERSION``, into a folder and return the wheel."""
    # pip's own cache of wheels does not record for which torch a wheel was built.
    name = mmcv.partition('==')[0]
    options = ['--no-build-isolation', '--no-deps', '--no-cache-dir', '--no-binary', name]
    command = [str(venv.python), '-m', 'pip', 'wheel', '-v', *options]
    command += ['--wheel-dir', str(folder), mmcv]
    variables = {'MAX_JOBS': str(os.cpu_count() or 1), **venv.variables, 'MMCV_WITH_OPS': '1'}
    print(f'      compiling with MAX_JOBS={variables["MAX_JOBS"]}, log in {log}', flush=True)
    tail: deque[str] = deque(maxlen=30)
    progress = Progress(sys.stdout)
    process = subprocess.Popen(
        command,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
    )
    with log.open('w') as file, process:
        assert process.stdout, 'it is a pipe'
        for line in process.stdout:
            file.write(line)
            tail.append(line)
            progress.feed(line)
    if process.returncode:
        raise SetupError(f'mmcv does not compile; full log in {log}, its end:\n\n{"".join(tail)}')
    return next(folder.glob('*.whl'))


def provide_mmcv(
    venv: Venv,
    mmcv: str,
    folder: Path,
    build: Callable[[Venv, str, Path, Path], Path] = build_mmcv,
) -> str:
    """Install an mmcv whose ops run, and return a note on its origin."""
    if not venv.ops_error(mmcv):
        return 'already installed'
    with locked(folder / 'lock'):
        for wheel in folder.glob('*.whl'):
            error = venv.wheel_error(wheel, mmcv)
            if not error:
                return f'from {wheel}'
            print(f'      the cached wheel is deleted and built again, because it fails: {error}')
            wheel.unlink()
        with tempfile.TemporaryDirectory(dir=folder, prefix='build-') as temporary:
            wheel = build(venv, mmcv, Path(temporary), folder / 'build.log')
            error = venv.wheel_error(wheel, mmcv)
            if error:
                raise SetupError(
                    f'mmcv compiled, but its ops fail: {error} (log in {folder / "build.log"})'
                )
            # Other processes see a complete, tested wheel or none.
            os.replace(wheel, folder / wheel.name)
        return f'compiled, kept in {folder}'
