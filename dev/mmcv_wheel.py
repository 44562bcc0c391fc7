"""Choose between mmcv with and without compiled ops; compile it, and keep the wheels.

A wheel is kept under the names of everything that it depends on.

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

COMPILED = 'mmcv'  # who computes the ops, as in CONVNEXT_BACKBONES_OPS and OPS=


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


def clear_way(venv: Venv, mmcv: str, lite: str, *, compiled: bool, replace: bool) -> bool:
    """Remove the mmcv that is not to serve, and return whether a compiled one stays.

    Args:
        venv: The environment, with its torch.
        mmcv: The distribution whose ops are compiled, as ``NAME==VERSION``.
        lite: The distribution that has none; it may have the same name.
        compiled: Whether the compiled ops are wanted.
        replace: Whether compiled ops that run have to go, if they are not wanted.

    Raises:
        SetupError: A compiled mmcv of another version runs, and neither is wanted.
    """
    name, _, tested = mmcv.partition('==')
    unwanted = {name, lite} - ({name} if compiled else {lite})
    if venv.has_compiled_ops():
        error = venv.ops_error(mmcv)
        if not error and (compiled or not replace):
            return True
        if not (compiled or replace) and not venv.ops_error(name):
            raise SetupError(
                f'{venv.root} has {name} {venv.installed(name)} with compiled ops, and {tested} is '
                f'tested: set up with OPS={COMPILED} to compile that one, or name another '
                'environment with VENV='
            )
        unwanted = {name, lite}
    if any(map(venv.installed, unwanted)):
        # Both, as their files are the same: without one of them the other is incomplete.
        present = [other for other in sorted({name, lite}) if venv.installed(other)]
        print(f'      {" and ".join(present)} has to go', flush=True)
        venv.pip('uninstall', '-qq', '-y', *present)
    return False
