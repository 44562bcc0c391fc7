"""What tests of the kernels in C need."""

import pytest

from convnext_backbones.native.compiler import why_unavailable

needs_compiler = pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or 'none')
