"""Generated input for test_properties.py: mostly almost right, now and then absurd.

Sizes are small or far too large, never in between: what is accepted must not fill the memory.
"""

from __future__ import annotations

import copy
import io
import json
import struct
import zipfile
from decimal import Decimal

import numpy as np
import torch
from hypothesis import strategies as st
from mmengine.config import Config

from convnext_backbones.models.trunk import STEM_TYPES

SMALL = st.integers(-3, 8)
ABSURD = st.sampled_from([10**6, 2**31, 2**63, -(2**63), 10**30, 10**400])


def nonsense(integers: st.SearchStrategy[int] = SMALL | ABSURD) -> st.SearchStrategy:
    """Values of all types that a config, or Python code, may hold."""
    scalars = st.one_of(
        st.none(),
        st.booleans(),
        integers,
        st.floats(),
        st.text(max_size=8),
        st.fractions(0, 1),
        st.sampled_from([b'', 1j, Decimal('0.5'), np.float16(0.5), np.int64(2), np.bool_(True)]),
        st.builds(object),
        st.builds(torch.ones, st.just(2)),
    )
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        ),
        max_leaves=5,
    )


# --- constructor arguments and inputs -------------------------------------------------------


@st.composite
def constructor_arguments(draw) -> dict:
    """Keywords of ConvNeXt: right ones, of which up to two are replaced by nonsense."""
    stages = draw(st.integers(1, 5))
    depths, dims = (
        draw(st.lists(st.integers(1, top), min_size=stages, max_size=stages)) for top in (2, 12)
    )
    sizes = [dict(depths=depths, dims=dims), dict(arch=dict(depths=depths, dims=dims))]
    indices = st.integers(-stages, stages - 1)
    options = dict(
        in_chans=st.integers(1, 6),
        drop_path_rate=st.floats(0, 1, exclude_max=True) | st.fractions(0, 1),
        layer_scale_init_value=st.floats(-1, 1) | st.sampled_from([1e-6, 1e38, 1e39, 0]),
        use_grn=st.booleans(),
        stem_type=st.sampled_from(STEM_TYPES),
        patch_size=st.integers(1, 5),
        norm_eps=st.none() | st.floats(1e-7, 1e-3),
        frozen_stages=st.integers(-1, stages),
        with_cp=st.booleans(),
        memory_efficient=st.booleans(),
        channels_last=st.none() | st.booleans(),
        init_cfg=st.sampled_from([None, dict(type='TruncNormal', layer='Linear'), [], {}]),
        pretrained=st.none(),
    )
    # The default is for four stages.
    always = dict(out_indices=indices | st.lists(indices, unique=True).map(sorted))
    arguments = draw(st.fixed_dictionaries(always, optional=options)) | draw(st.sampled_from(sizes))
    names = st.sampled_from(['arch', 'depths', 'dims', 'out_indices', *options])
    for name in draw(st.lists(names, max_size=2, unique=True)):
        arguments[name] = draw(nonsense() | st.sampled_from(['atto', 'tinny', 'convnext_tiny']))
    return arguments


DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.uint8, torch.int64, torch.bool, torch.complex64),
)


def _permuted(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else x


def _every_other(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, -1)[..., ::2] if x.dim() else x


MEMORY = dict(
    contiguous=torch.Tensor.contiguous,
    channels_last=lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x,
    permuted=_permuted,
    every_other=_every_other,
    expanded=lambda x: x[:1].expand(x.shape) if x.dim() and len(x) else x,
)


@st.composite
def inputs(draw):
    """Inputs of a network for three channels: an image batch of any size, or something else."""
    channels = st.just(3) | st.integers(0, 5)
    sides = st.integers(0, 70) | st.integers(32, 70)
    shape = draw(
        st.tuples(st.integers(0, 2), channels, sides, sides)
        | st.lists(st.integers(0, 4), max_size=6).map(tuple)
    )
    x = MEMORY[draw(st.sampled_from([*MEMORY]))](torch.rand(shape))
    x = x.to(draw(st.just(torch.float32) | st.sampled_from(DTYPES)))
    return draw(st.sampled_from([x] * 8 + [x.float().numpy(), x.float().tolist(), None, 'image']))


# --- config overrides -----------------------------------------------------------------------


def paths(node, prefix: str = '') -> list[str]:
    """The dotted paths of all entries of a config."""
    if isinstance(node, dict):
        items = node.items()
    elif isinstance(node, (list, tuple)):
        items = enumerate(node)
    else:
        return []
    return [
        path
        for key, value in items
        for path in (f'{prefix}{key}', *paths(value, f'{prefix}{key}.'))
    ]


NAMES = st.sampled_from(
    [
        *('', 'nonsense', 'ConvNeXt', 'ResNet', 'FPN', 'FCNHead', 'SyncBN', 'BN', 'mmdet', 'mmseg'),
        *('AmpOptimWrapper', 'mmdet.FPN', 'mmseg::FPN', 'none', 'atto', 'type', '_delete_', '..'),
    ]
)
# Larger numbers would be loops and layers of other packages, which take them at their word.
OVERRIDE_VALUES = nonsense(st.integers(-3, 70)) | NAMES


def overrides(cfg: Config) -> st.SearchStrategy[dict]:
    """What ``--cfg-options`` may hold: paths of the config and others, with any value."""
    known = st.sampled_from(paths(cfg.to_dict()))
    # The model and what the tools read themselves are most of the interest.
    near = st.sampled_from([path for path in paths(cfg.to_dict()) if path.count('.') < 3])
    unknown = st.builds('{}.{}'.format, known, NAMES | st.sampled_from(['0', '99', '_delete_']))
    keys = known | near | unknown | st.text(max_size=6)
    return st.dictionaries(keys, OVERRIDE_VALUES, min_size=1, max_size=3)


def override_texts() -> st.SearchStrategy[list[str]]:
    """The words after ``--cfg-options``, as they are typed."""
    key = st.sampled_from(['model', 'model.backbone.arch', 'train_cfg.max_iters', 'a', ''])
    value = st.text('([,])=\'"ab1.- ', max_size=12)
    return st.lists(st.builds('{}={}'.format, key, value) | value, min_size=1, max_size=3)


TRAINING_FLAGS = st.lists(
    st.sampled_from(
        [
            *(['--precision=bf16'], ['--amp'], ['--precision=fp32'], ['--checkpointing']),
            *(['--checkpointing=lean'], ['--accumulate=2'], ['--accumulate=0']),
            *(['--auto-scale-lr'], ['--strategy=fsdp'], ['--resume'], ['--resume=none.pth']),
        ]
    ),
    max_size=3,
).map(lambda flags: sum(flags, []))


def decay_settings() -> st.SearchStrategy[dict]:
    """``optimizer`` and ``paramwise_cfg`` of layer-wise decay, some of it wrong."""
    number = st.floats(0, 1) | nonsense()
    multipliers = st.dictionaries(st.sampled_from(['lr_mult', 'decay_mult', 'lr']), number)
    return st.fixed_dictionaries(
        dict(
            optimizer=st.fixed_dictionaries(
                dict(type=st.just('AdamW')), optional=dict(lr=number, weight_decay=number)
            ),
            paramwise_cfg=st.none()
            | st.fixed_dictionaries(
                {},
                optional=dict(
                    decay_rate=number,
                    decay_type=st.sampled_from(['layer_wise', 'stage_wise']) | nonsense(),
                    custom_keys=st.dictionaries(
                        st.sampled_from(['norm', 'stages', 'nothing']), multipliers | nonsense()
                    ),
                    num_layers=SMALL,
                ),
            ),
        )
    )


# --- weight files ---------------------------------------------------------------------------


@st.composite
def mutations(draw, files: dict[str, bytes]) -> bytes:
    """A file with some of its bytes changed, left out, added or cut off."""
    content = bytearray(files[draw(st.sampled_from([*files]))])
    for _ in range(draw(st.integers(1, 4))):
        # Heads and tails hold the structure; what lies between are mostly numbers.
        place = draw(st.integers(-200, 400) | st.integers(0, len(content)))
        place = min(max(place + (len(content) if place < 0 else 0), 0), len(content))
        change = draw(st.sampled_from(['flip', 'delete', 'insert', 'overwrite', 'truncate']))
        some = draw(st.binary(min_size=1, max_size=8))
        if change == 'flip' and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif change == 'delete':
            del content[place : place + len(some)]
        elif change == 'insert':
            content[place:place] = some
        elif change == 'overwrite':
            content[place : place + len(some)] = some
        elif change == 'truncate':
            del content[place:]
    return bytes(content)


# What a pickle may call: what torch and this package allow, and what would do harm. Without
# bytearray, which torch allows and which takes as much memory as a file asks for.
CALLABLES = (
    *('torch._utils _rebuild_tensor_v2', 'torch._utils _rebuild_parameter', 'torch Tensor'),
    *('torch._utils _rebuild_meta_tensor_no_storage', 'torch._utils _rebuild_sparse_tensor'),
    *('torch._utils _rebuild_qtensor', 'torch._utils _rebuild_nested_tensor', 'torch Size'),
    *('torch._tensor _rebuild_from_type_v2', 'torch.nn.parameter Parameter', 'torch device'),
    *('torch FloatStorage', 'torch float32', 'collections OrderedDict', 'collections Counter'),
    *('_codecs encode', 'builtins set', 'builtins complex', 'builtins getattr'),
    *('numpy ndarray', 'numpy dtype', 'numpy.dtypes Float64DType', 'argparse Namespace'),
    *('numpy._core.multiarray _reconstruct', 'numpy._core.multiarray scalar'),
    *('mmengine.logging.history_buffer HistoryBuffer', 'os system', 'posix system'),
    *('builtins eval', 'builtins exec', 'builtins __import__', 'subprocess Popen'),
    *('torch load', 'torch.hub load', 'functools partial', 'operator attrgetter'),
)


def pickles(command: str) -> st.SearchStrategy[bytes]:
    """Pickles of any structure, calls and states included, that try to run a shell ``command``."""
    code = f'__import__("os").system({command!r})'
    texts = st.sampled_from([command, code, 'mean', 'f8', 'O', 'V8', '__class__', 'storage', 'cpu'])
    leaves = st.one_of(
        st.sampled_from([b'N', b'\x88', b'\x89', b')', b']', b'}']),
        st.sampled_from([-1, 0, 1, 2, 4, 70, 2**31 - 1]).map(lambda n: b'J' + struct.pack('<i', n)),
        st.floats().map(lambda x: b'G' + struct.pack('>d', x)),
        (texts | st.text(max_size=4)).map(_unicode),
        st.binary(max_size=16).map(lambda text: b'U' + bytes([len(text)]) + text),
        st.sampled_from(CALLABLES).map(_global),
        st.just(_storage()),
    )

    def larger(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
        several = st.lists(inner, max_size=5).map(b''.join)
        tuples = several.map(lambda items: b'(' + items + b't')
        functions = st.sampled_from(CALLABLES).map(_global)
        return st.one_of(
            tuples,
            several.map(lambda items: b'](' + items + b'e'),
            st.lists(st.tuples(texts.map(_unicode) | inner, inner), max_size=3).map(
                lambda items: b'}(' + b''.join(map(b''.join, items)) + b'u'
            ),
            st.builds(lambda function, args: function + args + b'R', functions | inner, tuples),
            st.builds(lambda kind, args: kind + args + b'\x81', functions, tuples),
            st.builds(lambda value, state: value + state + b'b', inner, inner),
            inner.map(lambda value: value + b'Q'),
        )

    return st.recursive(leaves, larger, max_leaves=12).map(lambda body: b'\x80\x02' + body + b'.')


def _unicode(text: str) -> bytes:
    encoded = text.encode('utf-8', 'surrogatepass')
    return b'X' + struct.pack('<I', len(encoded)) + encoded


def _global(name: str) -> bytes:
    return b'c' + name.replace(' ', '\n').encode() + b'\n'


def _storage() -> bytes:
    """The persistent id of 16 numbers beside the pickle."""
    kind, number = _global('torch FloatStorage'), b'K\x10'
    return b'(' + _unicode('storage') + kind + _unicode('0') + _unicode('cpu') + number + b'tQ'


def in_archive(data: bytes) -> bytes:
    """A pickle where torch looks for it in the archives that it writes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name, content in dict(
            {'data.pkl': data, 'byteorder': b'little', 'data/0': bytes(64), 'version': b'3\n'}
        ).items():
            archive.writestr(f'archive/{name}', content)
    return file.getvalue()


def forged(command: str) -> st.SearchStrategy[bytes]:
    """Pickles in an archive, or on their own."""
    return pickles(command).flatmap(lambda data: st.sampled_from([in_archive(data), data]))


@st.composite
def edited(draw, state: dict[str, torch.Tensor]) -> dict:
    """What a checkpoint holds: a state dict with some of its tensors missing, renamed or wrong."""
    original, state = state, dict(state)
    odd = st.sampled_from([*ODD_TENSORS])
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(sorted(state) or ['w']))
        change = draw(st.sampled_from(['drop', 'rename', 'add', 'replace', 'replace']))
        if change == 'replace' and name in original:
            state[name] = ODD_TENSORS[draw(odd)](original[name])
        elif change == 'add':
            state[draw(st.text(max_size=8) | st.just('stages.0.9.gamma'))] = torch.ones(2)
        elif name in state:
            tensor = state.pop(name)
            if change == 'rename':
                state[draw(st.text(max_size=8) | st.just(f'module.{name}'))] = tensor
    containers = st.lists(st.sampled_from(['state_dict', 'model', 'module', 'model_ema']))
    for container in draw(containers):
        state = {container: state, draw(st.text(max_size=3)): draw(st.sampled_from([None, 1]))}
    if draw(st.integers(0, 15)) == 0:
        state['state_dict'] = state
    return state


ODD_TENSORS = {
    'shape': lambda x: torch.ones(3, 3),
    'empty': lambda x: x[:0],
    'scalar': lambda x: torch.tensor(1.0),
    'with axes': lambda x: x[..., None, None],
    'NaN': lambda x: torch.full_like(x, torch.nan),
    'float64': lambda x: x.double() * 1e300,
    'strided': lambda x: torch.ones(()).expand(x.shape),
    'endless': lambda x: torch.ones(()).expand(2**40),
    'RGBA': lambda x: torch.ones(x.shape[0], 4, *x.shape[2:]),
    'sparse': lambda x: x.to_sparse(),
    'meta': lambda x: x.to('meta'),
    'nested': lambda x: torch.nested.nested_tensor([x, x]),
    'quantized': lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    'CSR': lambda x: x.flatten(1).to_sparse_csr() if x.dim() > 1 else x,
    'parameter': torch.nn.Parameter,
    'no tensor': lambda x: 'text',
    **{str(dtype): lambda x, dtype=dtype: x.to(dtype) for dtype in DTYPES},
}


def prediction_files() -> st.SearchStrategy[bytes]:
    """What a file of predictions may hold, some of it wrong."""
    plain = st.none() | st.integers(-1, 3) | st.text(max_size=3) | st.lists(st.integers(0, 3))
    record = st.fixed_dictionaries({}, optional=dict(name=st.sampled_from(['a.jpg', 1]) | plain))
    content = st.fixed_dictionaries(
        {},
        optional=dict(
            format=st.just('convnext_backbones predictions 1') | plain,
            classes=st.just(('cat', 'dog')) | plain,
            images=st.lists(record | plain, max_size=3) | plain,
        ),
    )
    return (content | plain).map(_saved)


def _saved(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


# --- JSON files -----------------------------------------------------------------------------

JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 70) | st.sampled_from([2**31, 2**63, 10**30, 10**400]),
        st.floats(),
        st.text(max_size=4) | st.sampled_from(['..', '../../etc/passwd', '/etc/passwd', 'a\0b']),
        st.just('\ud800'),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@st.composite
def json_files(draw, content: dict) -> bytes:
    """A JSON file with entries left out, doubled or replaced, and at times a damaged text."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(0, 3))):
        parent = content
        key = draw(st.sampled_from([*content]))
        # Down to a random entry, which may itself hold others.
        while isinstance(parent[key], (dict, list)) and parent[key] and draw(st.integers(0, 5)):
            parent = parent[key]
            keys = [*parent] if isinstance(parent, dict) else [*range(len(parent))]
            key = draw(st.sampled_from(keys))
        change = draw(st.sampled_from(['replace', 'replace', 'delete', 'double']))
        if change == 'replace':
            parent[key] = draw(JSON_VALUES)
        elif change == 'delete':
            del parent[key]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        if not content:
            break
    text = json.dumps(content).encode()
    if draw(st.integers(0, 4)) == 0:
        return draw(mutations({'': text}))
    return text
