"""Describe the machine that a benchmark runs on, and measure how fast it multiplies matrices."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from ..io.tested_versions import read_stacks

PACKAGES = (
    *('timm', 'torchvision', 'transformers', 'openvino', 'onnxruntime'),
    *(name for names in read_stacks().values() for name in names.values()),
)
INSTRUCTIONS = ('avx2', 'avx512f', 'avx512_bf16', 'amx_bf16')
ALLOCATOR_VARIABLES = ('MALLOC_', 'LD_PRELOAD', 'GLIBC_TUNABLES')
# Positions of a map that a GEMM works on at a time, so that its output stays in the cache.
GEMM_CHUNK = 4096
GEMM_SECONDS = 0.15


def gemm_rates(
    dims: Sequence[int], positions: Sequence[int], dtype: torch.dtype
) -> dict[str, float]:
    """The operations per second of the two matrix products of the pointwise layers of a network.

    The best of the medians over the layers, whole and in chunks that fit into the cache.

    Args:
        dims: Channels C of each stage; its layers are C to 4C and back.
        positions: Of the map of each stage, all images together.
        dtype: Of factors and product.

    Returns:
        ``conv``: a 1x1 convolution in channels_last, oneDNN's where torch has it; ``mm``:
        ``torch.mm``, MKL's where torch has it.
    """
    rates = dict(conv=0.0, mm=0.0)
    for dim, whole in zip(dims, positions, strict=True):
        for inputs, outputs in ((dim, 4 * dim), (4 * dim, dim)):
            for rows in {min(whole, GEMM_CHUNK): None, whole: None}:
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
                    break  # a dtype that the processor does not have is slow at any size
    return rates


def _median_seconds(function: Callable, *args: Any) -> float:
    function(*args)
    seconds: list[float] = []
    while sum(seconds) < GEMM_SECONDS:
        start = time.perf_counter()
        function(*args)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def machine(threads: int) -> dict[str, str]:
    """What the figures depend on: processor, instructions, threads, versions, allocator."""
    model, flags = platform.processor(), ''
    with suppress(OSError):
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        pairs = dict(line.split(':', 1) for line in reversed(lines) if ':' in line)
        values = {key.strip(): value.strip() for key, value in pairs.items()}
        model, flags = values.get('model name', model), values.get('flags', flags)
    found = [flag for flag in INSTRUCTIONS if flag in flags.split()]
    versions = [f'torch {torch.__version__}']
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f'{package} {importlib.metadata.version(package)}')
    allocator = [
        f'{key}={value}' for key, value in os.environ.items() if key.startswith(ALLOCATOR_VARIABLES)
    ]
    return dict(
        processor=f'{model}, {os.cpu_count()} cores',
        instructions=f'{" ".join(found)}; torch uses {torch.backends.cpu.get_cpu_capability()}',
        threads=str(threads),
        versions=', '.join(versions),
        allocator=' '.join(allocator) or 'default',
    )
