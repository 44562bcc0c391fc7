"""A case that several modules compute."""

import pytest

from convnext_backbones.benchmark import contenders
from convnext_backbones.benchmark.case import Case


@pytest.fixture(scope='module', params=[False, True], ids=['V1', 'V2'])
def prepared(request, tmp_path_factory):
    """A case and its folder."""
    case = Case('atto', (64, 96), batch=2, use_grn=request.param)
    folder = tmp_path_factory.mktemp('case')
    operations = contenders.prepare(case, folder)
    # Stem, stages and downsampling of atto by hand: multiply-adds per position of each stage.
    dims, depths = (40, 80, 160, 320), (2, 2, 6, 2)
    macs, below = 0, 3
    for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        positions = (64 >> 2 + i) * (96 >> 2 + i)
        area = 16 if i == 0 else 4
        macs += positions * (area * below * dim + depth * (49 * dim + 8 * dim * dim))
        below = dim
    assert operations == 2 * 2 * macs
    return case, folder
