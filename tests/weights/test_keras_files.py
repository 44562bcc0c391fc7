"""Files of Keras, written by hand in every layout that Keras has had, and hostile ones.

tests/peers/test_keras.py compares with Keras itself.
"""

import re
import sys
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from support.weights import random_state

from convnext_backbones import ConvNeXt, ConvNeXtClassifier
from convnext_backbones.io.checkpoint import check_container, read_checkpoint
from convnext_backbones.weights import hdf5, keras_files, keras_writing
from convnext_backbones.weights.keras_files import is_keras_file, read_keras
from convnext_backbones.weights.keras_writing import write_keras

h5py = pytest.importorskip('h5py')

CLASSES = 5


@dataclass
class Layer:
    """A layer as Keras has it; one that is a ``Sequential`` has ``inner`` layers."""

    name: str
    kind: str
    variables: tuple[tuple[str, np.ndarray], ...] = ()
    inner: tuple['Layer', ...] = ()


def convolution(name, state, ours) -> Layer:
    kernel = state[f'{ours}.weight'].numpy().transpose(2, 3, 1, 0)
    return Layer(name, 'conv2d', (('kernel', kernel), ('bias', state[f'{ours}.bias'].numpy())))


def norm(name, state, ours) -> Layer:
    values = (('gamma', state[f'{ours}.weight'].numpy()), ('beta', state[f'{ours}.bias'].numpy()))
    return Layer(name, 'layer_normalization', values)


def dense(name, state, ours) -> Layer:
    values = (
        ('kernel', state[f'{ours}.weight'].numpy().T),
        ('bias', state[f'{ours}.bias'].numpy()),
    )
    return Layer(name, 'dense', values)


def network(state, name='convnext_tiny') -> list[Layer]:
    """All layers of Keras' network, with those that have no variables."""
    layers = [
        Layer('input_1', 'input_layer'),
        Layer(f'{name}_prestem_normalization', 'normalization'),
    ]
    for i in range(4):
        ours = f'downsample_layers.{i}'
        if i == 0:
            inner = (
                convolution(f'{name}_stem_conv', state, f'{ours}.0'),
                norm(f'{name}_stem_layernorm', state, f'{ours}.1'),
            )
        else:
            inner = (
                norm(f'{name}_downsampling_layernorm_{i - 1}', state, f'{ours}.0'),
                convolution(f'{name}_downsampling_conv_{i - 1}', state, f'{ours}.1'),
            )
        block = f'{name}_stem' if i == 0 else f'{name}_downsampling_block_{i - 1}'
        layers.append(Layer(block, 'sequential', inner=inner))
        for j in range(2 if i == 2 else 1):
            ours, block = f'stages.{i}.{j}', f'{name}_stage_{i}_block_{j}'
            layers += [
                convolution(f'{block}_depthwise_conv', state, f'{ours}.dwconv'),
                norm(f'{block}_layernorm', state, f'{ours}.norm'),
                dense(f'{block}_pointwise_conv_1', state, f'{ours}.pwconv1'),
                Layer(f'{block}_gelu', 'activation'),
                dense(f'{block}_pointwise_conv_2', state, f'{ours}.pwconv2'),
            ]
            if f'{ours}.gamma' in state:
                values = (('gamma', state[f'{ours}.gamma'].numpy()),)
                layers.append(Layer(f'{block}_layer_scale', 'layer_scale', values))
            layers.append(Layer(f'{block}_identity', 'activation'))
    if 'head.weight' in state:
        layers.append(norm(f'{name}_head_layernorm', state, 'norm'))
        layers.append(dense(f'{name}_head_dense', state, 'head'))
    else:
        layers.append(norm('layer_normalization_7', state, 'norm'))
    return layers


# --- the layouts of Keras -----------------------------------------------------------------------


def fixed(names: list[str]) -> np.ndarray:
    """Names as Keras 2 stores them."""
    return np.array([name.encode() for name in names])


def write_keras_2(path, layers, root='', variable='{}:0', inner='{part}', encode=fixed) -> None:
    with h5py.File(path, 'a') as file:
        group = file.require_group(root or '/')
        group.attrs['layer_names'] = encode([layer.name for layer in layers])
        group.attrs['keras_version'] = b'2.12.1'
        scales = 0
        for layer in layers:
            place = group.create_group(layer.name)
            names = []
            for part in layer.inner or (layer,):
                prefix = (
                    inner.format(layer=layer.name, part=part.name) if layer.inner else part.name
                )
                for name, values in part.variables:
                    if part.kind == 'layer_scale':
                        name = 'variable' if not scales else f'variable_{scales}'
                        scales += 1
                    names.append(variable.format(f'{prefix}/{name}'))
                    place[names[-1]] = values
            place.attrs['weight_names'] = encode(names) if names else np.zeros(0)


def write_whole_model(path, layers) -> None:
    with h5py.File(path, 'w') as file:
        file.attrs['model_config'] = '{"class_name": "Functional"}'
        file.create_group('optimizer_weights')
    # Text of any length, and the name of a Sequential twice.
    write_keras_2(path, layers, 'model_weights', '{}', '{layer}/{part}', encode=list)


def write_by_class(path, layers, step=1, word='layers', named=True) -> None:
    counts: dict[str, int] = {}

    def add(group, layer, counts) -> None:
        number = counts.get(layer.kind, 0)
        counts[layer.kind] = number + step
        group = group.require_group(f'{layer.kind}_{number}'.removesuffix('_0'))
        if layer.variables or named:
            place = group.create_group('vars')
            if named:
                place.attrs['name'] = layer.name
            for i, (_, values) in enumerate(layer.variables):
                place[str(i)] = values
        inside: dict[str, int] = {}
        for part in layer.inner:
            add(group.require_group(word), part, inside)

    with h5py.File(path, 'w') as file:
        for layer in layers:
            add(file.require_group(word), layer, counts)


def write_keras_2_12(path, layers) -> None:
    write_by_class(path, layers, step=2, word='_layer_checkpoint_dependencies', named=False)


def write_archive(path, layers) -> None:
    weights = path.with_suffix('.inside.h5')
    write_by_class(weights, layers)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('metadata.json', '{"keras_version": "3.15.1"}')
        archive.writestr('config.json', '{}')
        archive.write(weights, 'model.weights.h5')


LAYOUTS = {
    'Keras 2': ('weights.h5', write_keras_2),
    'a whole model': ('model.h5', write_whole_model),
    'Keras 3': ('x.weights.h5', write_by_class),
    'Keras 2.12': ('x.weights.h5', write_keras_2_12),
    'an archive': ('model.keras', write_archive),
}
layouts = pytest.mark.parametrize('layout', LAYOUTS)


@pytest.fixture
def state(miniature):
    return random_state(ConvNeXtClassifier(miniature, num_classes=CLASSES))


@pytest.fixture
def path(state, tmp_path):
    """A file of Keras 3, to be spoilt."""
    write_by_class(tmp_path / 'x.weights.h5', network(state))
    return tmp_path / 'x.weights.h5'


def headless(state) -> dict:
    return {name: tensor for name, tensor in state.items() if not name.startswith('head')}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
    )


@layouts
@pytest.mark.parametrize('top', [True, False])
def test_every_layout_gives_the_tensors_bit_by_bit(layout, top, state, tmp_path):
    name, write = LAYOUTS[layout]
    state = state if top else headless(state)
    # Sorted as text, dense_10 would come before dense_2.
    assert len([layer for layer in network(state) if layer.kind == 'dense']) == 10 + top
    write(tmp_path / name, network(state))
    assert is_keras_file(tmp_path / name)
    read = read_keras(tmp_path / name)
    assert same(read, state)
    assert all(tensor.is_contiguous() for tensor in read.values())


@layouts
def test_the_name_of_the_network_does_not_matter(layout, state, tmp_path):
    name, write = LAYOUTS[layout]
    write(tmp_path / name, network(state, 'mein Netz \u2713'))
    assert same(read_keras(tmp_path / name), state)


@layouts
def test_blocks_without_layer_scale(layout, state, tmp_path):
    name, write = LAYOUTS[layout]
    state = {key: tensor for key, tensor in state.items() if not key.endswith('.gamma')}
    write(tmp_path / name, network(state))
    assert same(read_keras(tmp_path / name), state)


def test_any_number_of_channels(miniature, tmp_path):
    state = random_state(ConvNeXtClassifier(miniature, in_chans=5, num_classes=CLASSES))
    write_by_class(tmp_path / 'x.weights.h5', network(state))
    assert same(read_keras(tmp_path / 'x.weights.h5'), state)


def replace(path, name: str, **options) -> None:
    """Write a dataset anew."""
    with h5py.File(path, 'a') as file:
        options = dict(data=file[name][()]) | options
        del file[name]
        file.create_dataset(name, **options)


BIAS = 'layers/dense_1/vars/1'  # of stages.0.0.pwconv2


@pytest.mark.parametrize('dtype', ['<f2', '>f4', '<f8', '>f8'])
def test_other_precisions_become_float32(dtype, state, path):
    replace(path, BIAS, dtype=dtype)
    read = read_keras(path)['stages.0.0.pwconv2.bias']
    expected = state['stages.0.0.pwconv2.bias'].numpy().astype(dtype).astype(np.float32)
    assert read.dtype == torch.float32 and np.array_equal(read, expected)


def test_bfloat16(state, path):
    tensor = state['stages.0.0.pwconv2.bias'].bfloat16()
    replace(path, BIAS, data=tensor.view(torch.int16).numpy().view('V2'))
    with h5py.File(path, 'a') as file:
        file[BIAS].attrs['dtype'] = 'bfloat16'
    assert torch.equal(read_keras(path)['stages.0.0.pwconv2.bias'], tensor.float())


def test_long_lists_of_names_are_in_parts(state, tmp_path):
    path = tmp_path / 'weights.h5'
    write_keras_2(path, network(state))
    with h5py.File(path, 'a') as file:
        names = file.attrs['layer_names']
        del file.attrs['layer_names']
        file.attrs['layer_names0'], file.attrs['layer_names1'] = names[:7], names[7:]
    assert same(read_keras(path), state)


# --- written files ------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['weights.h5', 'x.weights.h5'])
@pytest.mark.parametrize('top', [True, False])
def test_written_files_are_read_back_bit_by_bit(name, top, state, tmp_path):
    state = state if top else headless(state)
    files = []
    for folder in ('a', 'b'):
        (tmp_path / folder).mkdir()
        write_keras(tmp_path / folder / name, state)
        assert same(read_keras(tmp_path / folder / name), state)
        files.append((tmp_path / folder / name).read_bytes())
    assert files[0] == files[1]


def contents(path) -> dict:
    """The datasets of a file, and the names in it."""
    found = {}

    def add(name, item) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tolist()
        else:
            values = [item.attrs[key] for key in ('name', 'weight_names') if key in item.attrs]
            found[name] = [str(value) for value in values]

    with h5py.File(path) as file:
        file.visititems(add)
        found['layer_names'] = [str(x) for x in file.attrs.get('layer_names', [])]
    return found


@pytest.mark.parametrize(
    ('name', 'write'), [('weights.h5', write_keras_2), ('x.weights.h5', write_by_class)]
)
def test_written_files_are_as_keras_writes_them(name, write, state, tmp_path):
    (tmp_path / 'theirs').mkdir()
    layers = [layer for layer in network(state) if layer.variables or layer.inner]
    write(tmp_path / 'theirs' / name, layers)
    write_keras(tmp_path / name, state, name='convnext_tiny')
    ours, theirs = contents(tmp_path / name), contents(tmp_path / 'theirs' / name)
    if name == 'weights.h5':  # whose layer scale has had three names
        for file in (ours, theirs):
            scales = [key for key in file if re.search(r'_layer_scale/.*:0$', key)]
            file['scales'] = [file.pop(key) for key in scales]
            for key in [key for key in file if key.endswith('_layer_scale')]:
                del file[key]
    assert ours == theirs


def test_the_name_is_that_of_the_variant(tmp_path):
    write_keras(tmp_path / 'tiny.h5', ConvNeXtClassifier('tiny', num_classes=2).state_dict())
    with h5py.File(tmp_path / 'tiny.h5') as file:
        assert file.attrs['layer_names'][0] == b'convnext_tiny_stem'


def test_a_norm_of_the_last_output_is_the_final_norm(miniature, tmp_path):
    state = random_state(ConvNeXt(miniature, out_indices=(3,)))
    write_keras(tmp_path / 'x.weights.h5', state)
    expected = {re.sub(r'^norm3\.', 'norm.', name): tensor for name, tensor in state.items()}
    assert same(read_keras(tmp_path / 'x.weights.h5'), expected)


def test_without_layer_scale_blocks_are_scaled_by_one(state, tmp_path):
    plain = {name: tensor for name, tensor in state.items() if not name.endswith('.gamma')}
    write_keras(tmp_path / 'x.weights.h5', plain)
    read = read_keras(tmp_path / 'x.weights.h5')
    scales = {name: read.pop(name) for name in [*read] if name.endswith('.gamma')}
    assert same(read, plain) and all((scale == 1).all() for scale in scales.values())
    assert scales.keys() == state.keys() - plain.keys()


STEM = 'downsample_layers.0.0.weight'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'stages.0.0.grn.gamma': torch.ones(32)}, r'got global response normalization \(V2\)'),
        ({'downsample_layers.0.2.weight': torch.ones(8)}, 'got an overlapping stem'),
        ({'pre_logits.weight': torch.ones(8, 8)}, 'got a hidden layer in the head'),
        ({'norm0.weight': torch.ones(8)}, 'got norms of several outputs: norm0.weight'),
        ({STEM: torch.ones(8, 3, 8, 8)}, 'expected a stem of 4x4.*got 8x8'),
        ({STEM: None}, 'expected a ConvNeXt with a stem'),
        ({'norm.weight': None}, 'missing are norm.weight'),
        ({'head.bias': None}, 'missing are head.bias'),
        ({'neck.weight\n': torch.ones(1)}, r'no place for neck.weight\\n$'),
        ({'stages.1.0.pwconv1.weight': torch.ones(2, 2)}, r'expected stages.1.0.pwconv1.weight in'),
        ({'stages.1.0.gamma': torch.ones(16).to_sparse()}, 'layout torch.sparse_coo'),
    ],
)
def test_what_keras_has_no_place_for_is_not_written(change, message, state, tmp_path):
    for name, tensor in change.items():
        state.pop(name, None)
        if tensor is not None:
            state[name] = tensor
    with pytest.raises(ValueError, match=message) as error:
        write_keras(tmp_path / 'x.weights.h5', state)
    assert '\n' not in str(error.value)
    assert not [*tmp_path.iterdir()]


def test_other_networks_are_not_written(tmp_path):
    with torch.device('meta'):
        xxlarge = ConvNeXtClassifier('xxlarge').state_dict()
        short = ConvNeXtClassifier(dict(depths=(1, 1), dims=(8, 16))).state_dict()
    with pytest.raises(ValueError, match='epsilon of 1e-06.*got a xxlarge, whose is 1e-05'):
        write_keras(tmp_path / 'x.h5', xxlarge)
    with pytest.raises(ValueError, match='4 stages.*got 2 stages'):
        write_keras(tmp_path / 'x.h5', short)
    for name in ('x.keras', 'x.pth'):
        with pytest.raises(ValueError, match=f'ends in .weights.h5 or .h5, got .*{name}'):
            write_keras(tmp_path / name, xxlarge)


# --- other files --------------------------------------------------------------------------------


@layouts
def test_other_readers_say_what_the_file_is(layout, state, tmp_path):
    name, write = LAYOUTS[layout]
    write(tmp_path / name, network(state))
    assert check_container(tmp_path / name) == ('keras' if layout == 'an archive' else 'hdf5')
    with pytest.raises(ValueError, match=f'got the Keras file .*{name}.*convert_weights.py --to'):
        read_checkpoint(tmp_path / name)


def test_files_of_torch_are_not_of_keras(tmp_path):
    torch.save({}, tmp_path / 'x.pth')
    assert not is_keras_file(tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='expected a file of Keras, got .*x.pth'):
        read_keras(tmp_path / 'x.pth')
    with pytest.raises(FileNotFoundError, match='nothing at .*y.h5'):
        read_keras(tmp_path / 'y.h5')


def batch_norm(i) -> Layer:
    names = ('gamma', 'beta', 'moving_mean', 'moving_variance')
    return Layer(f'bn_{i}', 'batch_normalization', tuple((name, np.ones(8)) for name in names))


RESNET = [
    *(
        Layer(f'conv_{i}', 'conv2d', (('kernel', np.ones((3, 3, 8, 8))), ('bias', np.ones(8))))
        for i in range(3)
    ),
    *(batch_norm(i) for i in range(3)),
    Layer('probs', 'dense', (('kernel', np.ones((8, 5))), ('bias', np.ones(5)))),
]


@layouts
def test_another_network(layout, tmp_path):
    name, write = LAYOUTS[layout]
    write(tmp_path / name, RESNET)
    message = f'{name}.*another network: its layers are .*3 conv2d, 1 dense'
    with pytest.raises(ValueError, match=message):
        read_keras(tmp_path / name)


@pytest.mark.parametrize(
    ('layer', 'weight', 'message'),
    [
        (
            'convnext',
            'tf_conv_next_model/convnext/embeddings/kernel:0',
            'model.safetensors of the same',
        ),
        (
            'stack1_block1_grn',
            'stack1_block1_grn/gamma:0',
            "V2 of another project, while Keras' own",
        ),
    ],
)
def test_files_of_other_projects(layer, weight, message, tmp_path):
    with h5py.File(tmp_path / 'tf_model.h5', 'w') as file:
        file.attrs['layer_names'] = [layer]
        file[f'{layer}/{weight}'] = np.ones(8)
        file[layer].attrs['weight_names'] = [weight]
    with pytest.raises(ValueError, match=message):
        read_keras(tmp_path / 'tf_model.h5')


def test_hdf5_that_keras_did_not_write(tmp_path):
    with h5py.File(tmp_path / 'data.h5', 'w') as file:
        file['images\n'] = np.ones(3)
    with pytest.raises(ValueError, match=r'Keras did not write; it holds images\\n$'):
        read_keras(tmp_path / 'data.h5')


@layouts
@pytest.mark.parametrize('kind', ['conv2d', 'dense', 'layer_scale', 'sequential'])
def test_a_layer_is_missing(layout, kind, state, tmp_path):
    name, write = LAYOUTS[layout]
    layers = network(state)
    layers.remove([layer for layer in layers if layer.kind == kind][1])
    write(tmp_path / name, layers)
    with pytest.raises(ValueError, match=f'{name}.*layers (are missing|do not fit together)'):
        read_keras(tmp_path / name)


@layouts
def test_layers_that_do_not_fit_together(layout, state, tmp_path):
    name, write = LAYOUTS[layout]
    state['stages.2.0.norm.bias'] = torch.ones(7)
    write(tmp_path / name, network(state))
    with pytest.raises(
        ValueError, match=r'beta of stage_2_block_0_layernorm .* \(24,\), got \(7,\)'
    ):
        read_keras(tmp_path / name)


def test_stages_of_one_size_cannot_be_told_apart(tmp_path):
    arch = dict(depths=(1, 1, 2, 1), dims=(8, 16, 16, 32))
    write_by_class(tmp_path / 'x.weights.h5', network(random_state(ConvNeXtClassifier(arch))))
    with pytest.raises(ValueError, match=r'stages of different sizes.*\[8, 16, 16, 32\]'):
        read_keras(tmp_path / 'x.weights.h5')


@pytest.mark.parametrize('layout', ['Keras 2', 'Keras 3', 'an archive'])
def test_a_head_that_was_added_to_the_features(layout, state, tmp_path):
    name, write = LAYOUTS[layout]
    layers = network(headless(state)) + [dense('dense_1', state, 'head')]
    write(tmp_path / name, layers)
    with pytest.raises(ValueError, match="not the one of Keras.*the norm 'layer_normalization_7'"):
        read_keras(tmp_path / name)


@pytest.mark.parametrize('layout', ['Keras 2', 'Keras 3'])
def test_a_network_inside_another(layout, state, tmp_path):
    name, write = LAYOUTS[layout]
    inner = Layer(
        'convnext_tiny',
        'functional',
        inner=tuple(layer for layer in network(state) if layer.variables),
    )
    write(tmp_path / name, [inner, dense('dense', state, 'head')])
    with pytest.raises(
        ValueError, match='is a network itself; if that is the ConvNeXt, save it alone'
    ):
        read_keras(tmp_path / name)


# --- files of unknown origin --------------------------------------------------------------------


def link(file, name, target) -> None:
    del file[name]
    file[name] = target


def outside(file) -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((8,), 'f4')
    layout[:] = h5py.VirtualSource('secret.h5', 'x', (8,))
    return layout


def remake(file, name, **options) -> None:
    values = file[name][()]
    del file[name]
    file.create_dataset(name, **dict(data=values) | options)


ATTACKS = {
    'an external link': (
        lambda f: link(f, BIAS, h5py.ExternalLink('secret.h5', 'x')),
        "'1' in '/layers/dense_1/vars' is a link to another place",
    ),
    'an external link to a group': (
        lambda f: link(f, 'layers', h5py.ExternalLink('secret.h5', '/')),
        'is a link to another place',
    ),
    'a soft link': (
        lambda f: link(f, BIAS, h5py.SoftLink('/layers/dense/vars/1')),
        'is a link to another place',
    ),
    'values in another file': (
        lambda f: remake(
            f, BIAS, data=None, shape=(8,), dtype='f4', external=[('secret.bin', 0, 32)]
        ),
        'are in another file',
    ),
    'values of several files': (
        lambda f: (f.__delitem__(BIAS), f.create_virtual_dataset(BIAS, outside(f))),
        'are in another file',
    ),
    'a compressed dataset': (lambda f: remake(f, BIAS, compression='gzip'), 'is compressed'),
    'values that are not there': (
        lambda f: remake(f, BIAS, data=None, shape=(8,), dtype='f4', chunks=(8,)),
        'declares more values than the file holds',
    ),
    'a petabyte': (
        lambda f: remake(f, BIAS, data=None, shape=(1 << 48,), dtype='f4', chunks=(8,)),
        'declares more values than the file holds',
    ),
    'integers': (lambda f: remake(f, BIAS, dtype='i4'), 'a quantized model cannot be read'),
    'text': (lambda f: remake(f, BIAS, data=['x'] * 8), 'expected floating-point numbers'),
    'no values': (lambda f: remake(f, BIAS, data=h5py.Empty('f4')), 'holds no values'),
    'a group for values': (
        lambda f: (f.__delitem__(BIAS), f.create_group(BIAS)),
        'holds no values',
    ),
    'values for a group': (lambda f: link(f, 'layers', np.ones(3)), "'/layers' is not a group"),
    'a number for a name': (
        lambda f: f['layers/dense_1/vars'].attrs.__setitem__('name', 3),
        "the attribute 'name' of '/layers/dense_1/vars' to hold names, got .* type int",
    ),
    'a variable too many': (
        lambda f: f.create_dataset('layers/dense_1/vars/2', data=np.ones(3)),
        'got .*1 dense of 3 variables',
    ),
    'no variables': (
        lambda f: [f.__delitem__(f'layers/sequential/layers/conv2d/vars/{i}') for i in (0, 1)],
        'conv2d of 0 variables',
    ),
}


@pytest.mark.parametrize('attack', ATTACKS)
def test_what_is_not_plain_data_of_the_file_is_refused(attack, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with h5py.File('secret.h5', 'w') as file:
        file['x'] = np.full(8, 42, 'f4')
    (tmp_path / 'secret.bin').write_bytes(np.full(8, 42, 'f4').tobytes())
    change, message = ATTACKS[attack]
    with h5py.File(path, 'a') as file:
        change(file)
    with pytest.raises(ValueError, match=message) as error:
        read_keras(path)
    assert '\n' not in str(error.value) and str(path) in str(error.value)


def test_values_under_many_names_do_not_fill_the_memory(tmp_path):
    """Blocks that share their values: a small file of a large network."""
    arch = dict(depths=(40, 1, 1, 1), dims=(64, 1, 2, 3))
    with torch.device('meta'):
        network = ConvNeXtClassifier(arch, num_classes=CLASSES)
    state = {
        name: torch.ones(1).expand(tensor.shape) for name, tensor in network.state_dict().items()
    }
    write_keras(tmp_path / 'x.weights.h5', state)
    with (
        h5py.File(tmp_path / 'x.weights.h5', 'a') as file,
        h5py.File(tmp_path / 'y.h5', 'w') as out,
    ):
        for name in ('dense', 'dense_1'):
            file.copy(f'layers/{name}', out.require_group('layers'))
        for name in file['layers']:
            kind, _, number = name.rpartition('_')
            if kind == 'dense' and 2 <= int(number) < 80:
                out[f'layers/{name}'] = out['layers/dense_1' if int(number) % 2 else 'layers/dense']
            elif name not in out['layers']:
                file.copy(f'layers/{name}', out['layers'])
    with pytest.raises(ValueError, match='its layers share their values'):
        read_keras(tmp_path / 'y.h5')


def test_a_list_of_names_without_end(tmp_path):
    with h5py.File(tmp_path / 'weights.h5', 'w', libver='latest') as file:
        file.attrs.create('layer_names', np.zeros(2000, 'S1000'))
    with pytest.raises(ValueError, match="the attribute 'layer_names' of '/' is too long"):
        read_keras(tmp_path / 'weights.h5')


@pytest.mark.parametrize('name', ['', '/', '../x', '.', 'a\udc80', 'no such layer'])
def test_names_with_surprising_content(name, state, tmp_path):
    write_keras_2(tmp_path / 'weights.h5', network(state))
    with h5py.File(tmp_path / 'weights.h5', 'a') as file:
        names = [*file.attrs['layer_names'], name.encode('utf8', 'surrogateescape')]
        file.attrs['layer_names'] = np.array(names)
    with pytest.raises(ValueError, match='weights.h5') as error:
        read_keras(tmp_path / 'weights.h5')
    assert str(error.value).isprintable()


@pytest.mark.parametrize('bad', ['no length', 'too long', 'backwards', 'a heap beyond the file'])
def test_heaps_at_which_the_library_would_stop_for_ever(bad, path):
    content = bytearray(path.read_bytes())
    heap = content.index(b'GCOL')
    value = {'no length': 0, 'too long': 1 << 40, 'backwards': (1 << 64) - 16}.get(bad)
    if value is None:
        content[heap + 8 : heap + 16] = (1 << 40).to_bytes(8, 'little')
    else:
        content[heap + 16 : heap + 18] = (value != 0).to_bytes(2, 'little')
        content[heap + 24 : heap + 32] = value.to_bytes(8, 'little')
    path.write_bytes(content)
    with pytest.raises(ValueError, match='the heap of its names is damaged'):
        read_keras(path)


@layouts
@pytest.mark.parametrize('part', [0.0005, 0.05, 0.5, 0.99])
def test_truncated_files(layout, part, state, tmp_path):
    name, write = LAYOUTS[layout]
    write(tmp_path / name, network(state))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError, match=f'cannot read .*{name}.*damaged') as error:
        read_keras(tmp_path / name)
    assert '\n' not in str(error.value)


def test_damage_in_an_archive_is_noticed(state, tmp_path):
    write_archive(tmp_path / 'model.keras', network(state))
    content = bytearray((tmp_path / 'model.keras').read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / 'model.keras').write_bytes(content)
    with pytest.raises(ValueError, match='model.keras.*damaged .BadZipFile: Bad CRC-32'):
        read_keras(tmp_path / 'model.keras')


def test_without_h5py_a_sentence_says_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'h5py', None)
    for call in (lambda: read_keras(path), lambda: write_keras(path, {})):
        with pytest.raises(ValueError, match=r"run: pip install 'convnext_backbones\[keras\]'"):
            call()


def test_the_package_does_without_h5py():
    assert not any('h5py' in vars(module) for module in (hdf5, keras_files, keras_writing))
