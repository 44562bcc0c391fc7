"""PSANet's masks are those of compiled mmcv, forward and backward."""

import mmcv.ops
import pytest
import torch
from support import stored_references
from support.operator_cases import normal, random
from support.operator_checks import (
    cases,
    check_determinism,
    check_layouts,
    check_stored,
    gradcheck,
)

CASES = cases('psa_mask')


@pytest.mark.parametrize('case', CASES, ids=str)
def test_equals_compiled(provider, case):
    check_stored(case)


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
def test_gradients(provider, kind):
    inputs = dict(x=normal(random('gradients'), 1, 15, 3, 4))
    layer = mmcv.ops.PSAMask(kind, (5, 3))
    gradcheck(lambda x: layer(x), inputs, 'x')


def test_layouts(stand_in):
    for case in CASES:
        if case.dtype == torch.float32:
            check_layouts(case.run, stored_references.inputs(case), 0)


def test_determinism(provider):
    for case in CASES:
        check_determinism(lambda case=case: case.run(stored_references.inputs(case)))
