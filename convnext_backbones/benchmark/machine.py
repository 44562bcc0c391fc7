"""Describe the machine that a benchmark runs on, and measure how fast it multiplies matrices."""

from __future__ import annotations

import importlib.metadata
import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from ..io.tested_versions import read_stacks
from ..reports.environment import cpu_name

PEER_PACKAGES = ('timm', 'torchvision', 'transformers', 'openvino', 'onnxruntime')
INSTRUCTIONS = ('avx2', 'avx512f', 'avx512_bf16', 'amx_bf16')
ALLOCATOR_VARIABLES = ('MALLOC_', 'LD_PRELOAD', 'GLIBC_TUNABLES')
# Positions of a map that a matrix product covers at a time, so that its output stays in the cache.
GEMM_CHUNK = 4096
GEMM_SECONDS = 0.15


def gemm_rates(
    dims: Sequence[int], positions: Sequence[int], dtype: torch.dtype
) -> dict[str, float]:
    """Measure the two matrix products of a network's pointwise layers.

    Each rate is the best over the layers of the median rate, for whole maps and for chunks that
    fit into the cache.

    Args:
        dims: Channels C of each stage; its layers map C to 4C and back.
        positions: Positions in the maps of each stage, all images together.
        dtype: Data type of factors and product.

    Returns:
        Operations per second: ``conv`` of a 1x1 convolution in channels_last (oneDNN where torch
        has it), ``mm`` of ``torch.mm`` (MKL where torch has it).
    """
    rates = dict(conv=0.0, mm=0.0)
    for dim, whole in zip(dims, positions, strict=True):
        for inputs, outputs in ((dim, 4 * dim), (4 * dim, dim)):
            for rows in sorted({min(whole, GEMM_CHUNK), whole}):
                x = torch.randn(rows, inputs).to(dtype)
                weight = torch.randn(outputs, inputs).to(dtype)
                image = x.view(1, 1, rows, inputs).permute(0, 3, 1, 2)
                kernel = weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
                seconds = dict(
                    conv=_median_seconds(F.conv2d, image, kernel),
                    mm=_median_seconds(torch.mm, x, weight.T),
                )
                for name, median in seconds.items():
                    rates[name] = max(rates[name], 2 * rows * inputs * outputs / median)
                if max(seconds.values()) > GEMM_SECONDS:
                    break  # a dtype that the processor does not support is slow at any size
    return rates


def _median_seconds(function: Callable, *args: Any) -> float:
    function(*args)
    seconds: list[float] = []
    while sum(seconds) < GEMM_SECONDS:
        start = time.perf_counter()
        function(*args)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def describe_machine(threads: int) -> dict[str, str]:
    """Return what the figures depend on: processor, instructions, threads, versions, allocator."""
    flags = cpu_flags()
    found = [flag for flag in INSTRUCTIONS if flag in flags]
    stacks = [name for names in read_stacks().values() for name in names.values()]
    versions = [f'torch {torch.__version__}']
    for package in [*PEER_PACKAGES, *stacks]:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f'{package} {importlib.metadata.version(package)}')
    allocator = [
        f'{key}={value}' for key, value in os.environ.items() if key.startswith(ALLOCATOR_VARIABLES)
    ]
    return dict(
        processor=f'{cpu_name()}, {os.cpu_count()} cores',
        instructions=f'{" ".join(found)}; torch uses {torch.backends.cpu.get_cpu_capability()}',
        threads=str(threads),
        versions=', '.join(versions),
        allocator=' '.join(allocator) or 'default',
    )


def cpu_flags() -> set[str]:
    """Return the instruction sets that the kernel lists for the processor; Linux only."""
    with suppress(OSError):
        found = re.search(r'^flags\s*:\s*(.+)$', Path('/proc/cpuinfo').read_text(), re.M)
        if found:
            return set(found[1].split())
    return set()
