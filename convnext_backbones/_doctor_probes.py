"""Run code in subprocesses and collect what it finds out.

Standard library only. The stack is imported in subprocesses, because an extension built for
another torch may crash its interpreter.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).absolute().parent
# Importing everything takes about six seconds from a warm disk.
PROBE_SECONDS = 180

TORCH_PROBE = """
import torch
parallel = torch.distributed.is_available() and torch.distributed
if torch.cuda.is_available():
    facts['cuda'] = f'{torch.version.cuda}, devices: {torch.cuda.device_count()}'
facts['nccl'] = bool(parallel and parallel.is_nccl_available())
facts['gloo'] = bool(parallel and parallel.is_gloo_available())
import numpy
torch.from_numpy(numpy.zeros(1))
"""
# OpenMMLab's imports pkg_resources, which setuptools 82 removed; OneDL's does not.
MMENGINE_PROBE = """
import mmengine.runner
from mmengine.utils import is_installed
is_installed('mmengine')
"""
# What importing this package does for mmcv's operators, without importing all of it, and from a
# checkout too, whose other folders must not pass for installed packages.
FINDER = f"""
import sys, types
package = types.ModuleType('convnext_backbones')
package.__path__ = [{str(PACKAGE)!r}]
sys.modules.setdefault('convnext_backbones', package)
from convnext_backbones.ops import finder
finder.install()
"""
# The class that convnext_backbones_ops.pth puts into sys.meta_path at Python's start.
EARLY = 'ConvNeXtBackbonesOps'
OPS_PROBE = f"""{FINDER}
import logging, os
from convnext_backbones.ops import providers
facts['early'] = any(getattr(one, '__name__', '') == {EARLY!r} for one in sys.meta_path)
facts['forced'] = bool(os.environ.get(providers.VARIABLE))
facts['broken'] = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: facts['broken'].append(record.getMessage())
providers.logger.addHandler(handler)
import mmcv.ops
facts['provider'] = providers.serving()
facts['description'] = providers.describe(sys.modules[providers.EXTENSION])
facts['cuda'] = mmcv.ops.get_compiling_cuda_version()
if facts['provider'] == 'torch':
    try:
        providers.PROVIDERS['torchvision'](())
    except providers.NotInstalledError:
        pass
    except providers.ProviderError as error:
        facts['torchvision'] = str(error)
"""
MMDET_PROBE = f'{FINDER}import mmdet.apis, mmdet.models'
MMSEG_PROBE = f'{FINDER}import mmseg.apis, mmseg.models'


@dataclass(frozen=True)
class Probe:
    """Outcome of running the probe of a component.

    Attributes:
        error: ``Type: message``; empty if the probe ran.
        facts: What it found out.
    """

    error: str = ''
    facts: Mapping[str, Any] = field(default_factory=dict)


PROBE_LOOP = """
import json, os, sys, warnings
# Folders of the current directory are no installed packages.
sys.path[:] = [entry for entry in sys.path if entry]
warnings.simplefilter('ignore')
report = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)  # what imports print must not mix with the report
for name, code in json.loads(sys.argv[1]):
    facts, error = {}, ''
    try:
        exec(code, {'facts': facts})
    except BaseException as exception:
        error = f'{type(exception).__name__}: {exception}'
    report.write(json.dumps([name, error, facts]) + '\\n')
    report.flush()
"""


def run_probes(probes: Mapping[str, str], seconds: float = PROBE_SECONDS) -> dict[str, Probe]:
    """Run code in a subprocess; if that crashes, continue with the next one in another.

    Args:
        probes: Code by name.
        seconds: Time limit of a subprocess.

    Returns:
        The outcome by name.
    """
    outcomes: dict[str, Probe] = {}
    waiting = list(probes.items())
    while waiting:
        command = [sys.executable, '-c', PROBE_LOOP, json.dumps(waiting)]
        try:
            run = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=seconds
            )
            output, crash = run.stdout, _crash(run.returncode)
        except subprocess.TimeoutExpired as expired:
            output, crash = expired.stdout or b'', f'still running after {seconds:g} seconds'
        for line in output.decode().splitlines():
            name, error, facts = json.loads(line)
            outcomes[name] = Probe(error, facts)
        waiting = [item for item in waiting if item[0] not in outcomes]
        if waiting:
            outcomes[waiting.pop(0)[0]] = Probe(f'Crash: {crash}')
    return outcomes


def _crash(code: int) -> str:
    if code < 0:
        return f'{signal.Signals(-code).name} killed the interpreter'
    return f'the interpreter exited with status {code}'
