"""The block in bf16, with emulated instructions where the processor has none."""

import ctypes
import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convnext_backbones.models.block import Block
from convnext_backbones.native.compiler import FLAGS, FOLDER, find_openmp
from convnext_backbones.native.kernels import LONG, POINTERS

SOURCE = FOLDER / 'block_bf16.c'
HERE = Path(__file__).parent
LAST = torch.channels_last
NAN = float('nan')
# What the bf16 kernels are written for, without -march: it would select other code than -DLANES.
EMULATION = ['-DLANES=16', '-DROWS=12', '-include', str(HERE / 'emulated_intrinsics.h')]
KINDS = ['AMX', 'AVX512BF16']
INSTRUCTIONS = {
    'AMX': ['-march=sapphirerapids'],
    'AVX512BF16': [f'-mavx512{part}' for part in ('f', 'bf16', 'bw', 'vl', 'dq')] + ['-mfma'],
}
# One position; less than a block of 32; rests of blocks and tiles; several tiles for a thread.
SIZES = [(7, 7), (1, 1), (1, 5), (13, 40), (32, 33)]

pytestmark = pytest.mark.skipif(not shutil.which('gcc'), reason='there is no gcc')


class _Block(ctypes.Structure):
    _fields_ = [
        ('x', POINTERS),
        *((name, LONG) for name in ('samples', 'height', 'width', 'channels', 'hidden')),
        *((name, POINTERS) for name in ('taps', 'dwconv_bias', 'norm_weight', 'norm_bias')),
        ('eps', ctypes.c_float),
        *((name, POINTERS) for name in ('packed', 'pwconv1_bias', 'pwconv2_bias')),
        *((name, POINTERS) for name in ('grn_gamma', 'grn_beta', 'gamma', 'scratch')),
        ('threads', ctypes.c_int),
    ]


def gcc(*arguments):
    done = subprocess.run(['gcc', *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def build(folder, *flags):
    gcc(*FLAGS, *flags, '-c', SOURCE, '-o', folder / 'block.o')
    gcc('-shared', folder / 'block.o', find_openmp(), '-lm', '-o', folder / 'block.so')
    library = ctypes.CDLL(str(folder / 'block.so'))
    for name in ('block_bf16_scratch', 'block_bf16_packed_bytes'):
        if hasattr(library, name):
            getattr(library, name).restype = LONG
    return library


@pytest.fixture(scope='module', params=KINDS)
def emulated(request, tmp_path_factory):
    library = build(tmp_path_factory.mktemp('kernels'), f'-DEMULATE_{request.param}', *EMULATION)
    assert library.block_bf16_supported()
    return library


@pytest.fixture(scope='module')
def real(tmp_path_factory):
    library = build(tmp_path_factory.mktemp('kernels'), '-march=native')
    if not library.block_bf16_supported():
        pytest.skip('this processor has no bf16 instructions')
    return library


class Guarded:
    """Copies of tensors between guards, which have to stay as they are."""

    def __init__(self):
        self.buffers: list[tuple[Tensor, Tensor]] = []

    def copy(self, tensor, guard=64):
        flat = tensor.contiguous().flatten()
        buffer = torch.full((len(flat) + 2 * guard,), NAN, dtype=flat.dtype)
        buffer[guard:-guard] = flat
        self.buffers.append((buffer, buffer.clone()))
        return buffer[guard:-guard]

    def check(self, *written):
        """Everything but the buffers that contain ``written`` is as before."""
        for buffer, before in self.buffers:
            inside = slice(64, -64) if any(buffer[64:].data_ptr() == p for p in written) else None
            if inside:
                buffer[inside] = before[inside] = 0
            assert torch.equal(buffer.view(torch.uint8), before.view(torch.uint8))


def make_block(channels, use_grn, layer_scale):
    """A block whose parameters are bf16 values, in fp64."""
    torch.manual_seed(channels + 1000 * use_grn + round(10 * layer_scale))
    block = Block(channels, 0.0, layer_scale, use_grn=use_grn)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            spread = 0.5 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn_like(parameter) * spread + ('norm.weight' in name))
    return block.eval().bfloat16().double()


def run(library, block, x, threads=1):
    """Return the output for ``x``, in bf16 and channels_last."""
    guarded = Guarded()
    names = {name.replace('.', '_'): p.float() for name, p in block.named_parameters()}
    taps = names.pop('dwconv_weight').flatten(1).t()
    weights = [guarded.copy(names.pop(f'pwconv{i}_weight')) for i in (1, 2)]
    samples, channels, height, width = x.shape
    hidden = len(names['pwconv1_bias'])
    size = library.block_bf16_packed_bytes(LONG(channels), LONG(hidden))
    packed = guarded.copy(torch.full((size // 2,), NAN, dtype=torch.bfloat16))
    library.pack_block_bf16(
        *(POINTERS(w.data_ptr()) for w in weights),
        *(LONG(channels), LONG(hidden), POINTERS(packed.data_ptr())),
    )
    y = guarded.copy(x.permute(0, 2, 3, 1))
    given = _Block(
        x=y.data_ptr(),
        samples=samples,
        height=height,
        width=width,
        channels=channels,
        hidden=hidden,
        taps=guarded.copy(taps).data_ptr(),
        eps=block.norm.eps,
        packed=packed.data_ptr(),
        threads=threads,
        **{name: guarded.copy(tensor).data_ptr() for name, tensor in names.items()},
    )
    count = library.block_bf16_scratch(ctypes.byref(given))
    scratch = guarded.copy(torch.full((count,), NAN))
    given.scratch = scratch.data_ptr()
    library.block_bf16_forward(ctypes.byref(given))
    found = y.clone().view(samples, height, width, channels).permute(0, 3, 1, 2)
    guarded.check(y.data_ptr(), packed.data_ptr(), scratch.data_ptr())
    return found


def check(library, block, shape, threads=1):
    """At most as far from the truth as the plain block in bf16, over enough values to tell."""
    truths, plains, founds = [], [], []
    for _ in range(max(1, 4000 // math.prod(shape))):
        x = torch.randn(shape).contiguous(memory_format=LAST).bfloat16()
        truths.append(block.double()(x.double()))
        plains.append(block.bfloat16()(x))
        founds.append(run(library, block.double(), x, threads))
    truth = torch.stack(truths)
    plain, found = ((torch.stack(y) - truth).abs() for y in (plains, founds))
    assert found.square().mean() <= plain.square().mean()
    assert found.max() <= 1.5 * plain.max()  # which is due to chance
    return founds


@torch.no_grad()
@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
@pytest.mark.parametrize('channels', [8, 40, 96, 192])
def test_block(emulated, size, use_grn, channels):
    block = make_block(channels, use_grn, layer_scale=float(not use_grn))
    check(emulated, block, (2, channels, *size))


@torch.no_grad()
@pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
def test_layer_scale(emulated, use_grn):
    """V1 without it, and V2 with it."""
    check(emulated, make_block(24, use_grn, layer_scale=float(use_grn)), (2, 24, 9, 11))


@torch.no_grad()
@pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
def test_wide_panels(emulated, use_grn):
    """Panels that are longer than what stays in the first cache."""
    check(emulated, make_block(416, use_grn, layer_scale=1.0), (1, 416, 5, 20))


@torch.no_grad()
@pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
@pytest.mark.parametrize('size', [(1, 1), (7, 7), (32, 33)], ids=str)
def test_threads(emulated, size, use_grn):
    """The outcome does not depend on who computes which part, but for the sums of GRN."""
    block = make_block(100, use_grn, layer_scale=1.0)
    check(emulated, block, (2, 100, *size), threads=2)
    x = torch.randn(2, 100, *size).bfloat16()
    first, *others = (run(emulated, block.double(), x, threads) for threads in (1, 2, 5))
    for other in others:
        assert use_grn or torch.equal(first, other)
    assert ctypes.c_int.in_dll(emulated, 'emulated_threads_in_use').value == 0


@torch.no_grad()
def test_values_of_any_size(emulated):
    """Where GELU is zero or the identity, and a NaN, which stays within the 7x7 around it."""
    block = make_block(8, False, layer_scale=1.0)
    block.pwconv1.bias.copy_(torch.linspace(-30, 30, 32).bfloat16())
    check(emulated, block, (1, 8, 12, 12))
    x = torch.randn(1, 8, 40, 12).bfloat16()
    before = run(emulated, block.double(), x)
    x[0, 3, 20, 6] = NAN
    after = run(emulated, block, x)
    touched = torch.zeros(40, 12, dtype=torch.bool)
    touched[17:24, 3:10] = True
    assert after[0, :, touched].isnan().all()
    assert torch.equal(before[0, :, ~touched], after[0, :, ~touched])


@torch.no_grad()
def test_gelu(emulated):
    """Each output channel shows what a hidden channel has, whose input is its bias."""
    channels = 480
    block = make_block(channels, False, layer_scale=0.0)
    for parameter in block.parameters():
        parameter.zero_()
    block.pwconv1.bias[:channels] = torch.linspace(-12, 12, channels)
    block.pwconv2.weight[:, :channels] = torch.eye(channels)
    found = run(emulated, block, torch.zeros(1, channels, 1, 1).bfloat16()).flatten().double()
    expected = F.gelu(block.pwconv1.bias[:channels])
    # Rounded once; the sum of the residual adds zero.
    assert ((found - expected).abs() <= 4.1e-5 + 2**-8 * expected.abs()).all()


def test_packed_weights(emulated):
    """Rounded to the nearest, in the layout that products_bf16.h describes."""
    channels, hidden = 40, 70
    pwconv1, pwconv2 = torch.randn(hidden, channels), torch.randn(channels, hidden)
    pwconv1[0, :4] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20])
    size = emulated.block_bf16_packed_bytes(LONG(channels), LONG(hidden)) // 2
    packed = torch.full((size,), NAN, dtype=torch.bfloat16)
    pointers = (POINTERS(t.data_ptr()) for t in (pwconv1, pwconv2, packed))
    first, second, to = pointers
    emulated.pack_block_bf16(first, second, LONG(channels), LONG(hidden), to)
    for weight, panels in zip((pwconv1, pwconv2), packed.chunk(2), strict=True):
        rows, columns = (math.ceil(n / 32) for n in weight.shape)
        blocks = panels.view(rows, columns, 2, 16, 16, 2)
        found = blocks.permute(0, 2, 4, 1, 3, 5).reshape(32 * rows, 32 * columns)
        expected = torch.zeros_like(found)
        expected[: len(weight), : weight.shape[1]] = weight.bfloat16()
        assert torch.equal(found, expected)


def test_refused_tiles(tmp_path, monkeypatch):
    library = build(tmp_path, '-DEMULATE_AMX', *EMULATION)
    monkeypatch.setenv('REFUSE_AMX', '1')
    assert library.block_bf16_supported() == 0
    monkeypatch.delenv('REFUSE_AMX')
    assert library.block_bf16_supported() == 1


def test_processors_without_bf16(tmp_path):
    library = build(tmp_path)
    assert library.block_bf16_supported() == 0
    assert not hasattr(library, 'block_bf16_forward')


@pytest.mark.parametrize('kind', KINDS)
def test_bounds_of_buffers(kind, tmp_path):
    sanitizers = ['-fsanitize=address,undefined', '-fno-sanitize-recover=all']
    flags = [*FLAGS, '-O1', '-g', *sanitizers, f'-I{FOLDER}']
    gcc(*flags, f'-DEMULATE_{kind}', *EMULATION, '-c', SOURCE, '-o', tmp_path / 'block.o')
    gcc(
        *flags, HERE / 'bounds_of_block_bf16.c', tmp_path / 'block.o', '-lm', '-o', tmp_path / 'run'
    )
    done = subprocess.run([tmp_path / 'run'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('kind', KINDS)
def test_real_instructions(kind, tmp_path):
    """They are compiled to, and no sum of the product leaves its register within the loop."""
    probe = ['gcc', *INSTRUCTIONS[kind], '-E', '-x', 'c', '/dev/null']
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip('this gcc does not know the instructions')
    gcc(*FLAGS, *INSTRUCTIONS[kind], '-S', SOURCE, '-o', tmp_path / 'block.s')
    name, instruction = {
        'AMX': ('multiply', 'tdpbf16ps'),
        'AVX512BF16': ('multiply_12', 'vdpbf16ps'),
    }[kind]
    code = (tmp_path / 'block.s').read_text()
    code = code.partition(f'\n{name}:')[2].partition('.cfi_endproc')[0]
    assert instruction in code
    assert '(%rsp' not in code and '(%rbp' not in code


# Slow, since it has not run yet: the check after compiling decides what users get.
@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
@pytest.mark.parametrize('channels', [40, 96, 416])
def test_block_with_real_instructions(real, channels, use_grn):
    for size in SIZES:
        block = make_block(channels, use_grn, layer_scale=float(not use_grn))
        check(real, block, (2, channels, *size), threads=2)
