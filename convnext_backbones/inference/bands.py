"""The size of the bands of rows that are computed at once."""

from __future__ import annotations

import math

# Bytes of the hidden map of one band. Measured at 800 x 1280 on a CPU with AVX2, 0.5 MiB of L2 per
# core and 32 MiB of L3 (2026-11-23): 8 to 32 MiB are equal, 4 MiB take 1.2 times as long.
BAND_BYTES = 12 * 2**20


def fitting(size: int) -> int:
    """Return how many rows or maps of ``size`` bytes a band may have; perhaps none."""
    return BAND_BYTES // size


def even_share(total: int, limit: int) -> int:
    """Return the size of parts of ``total``: equal, at most ``limit``, and as few as possible."""
    parts = math.ceil(total / max(limit, 1))
    return math.ceil(total / parts)
