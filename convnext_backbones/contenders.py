"""What the benchmark compares: ours, the peers from PyPI, and runtimes that take exported networks.

All get the same weights and the same input, by way of one folder, and so compute the same function:
the difference of their outputs from those of the plain form is part of the report. Weights are
random with activations of unit scale, and layer scale is about one.

A backbone gives the maps of its four stages, each with a LayerNorm. timm and torchvision have none
on their outputs and get ours. The authors' own code cannot be compared: it is not on PyPI.

A whole model is timed from the decoded image to its predictions, masks in the size of the image
included. The random weights make a detector see as many objects as it may keep, a hundred by
default, so that boxes and masks are really computed; their number is part of the report.
Segmentors take the image as a whole.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .backbone import NORM_EPS, ConvNeXt
from .benchmark import Contender, Prepared
from .complexity import (
    SWIN_B,
    SWIN_L,
    SWIN_S,
    SWIN_T,
    build_classifier,
    build_on_meta,
    count_parts,
    replace_backbone,
)
from .hardware import adapt_to_hardware
from .launch import load_config
from .layers import LayerNorm2d
from .layouts import LAYOUTS, export, recognise
from .variants import resolve_variant

OUTPUTS = (0, 1, 2, 3)
PREFIX = 'backbone.'
WEIGHTS, INPUT, REFERENCE = 'weights.safetensors', 'input.safetensors', 'reference.safetensors'
SWIN = {'tiny': SWIN_T, 'small': SWIN_S, 'base': SWIN_B, 'large': SWIN_L}
ABSENT_PEERS = {'official': 'not on PyPI: the authors publish their code as a repository'}

State = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """What all contenders of a race compute.

    Attributes:
        arch: A name of our variants, or a dict of depths and dims; of a whole model, that of its
            backbone.
        shape: Height and width of the images.
        batch: Number of images; a whole model takes one.
        training: Forward, the sum of squares of all maps as the loss, and backward; there is no
            optimizer and no stochastic depth.
        threads: Of each contender.
        config: Of a detector or a segmentor, for a whole model in place of a backbone.
    """

    arch: str | Mapping
    shape: tuple[int, int]
    batch: int = 1
    training: bool = False
    threads: int = 1
    config: str | None = None


# --- what all share -----------------------------------------------------------------------------


def randomise(module: nn.Module) -> nn.Module:
    """Draw all parameters so that activations keep their scale and nothing is zero or one."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            bound = math.sqrt(3 / parameter[0].numel())
            low, high = -bound, bound
        else:
            low, high = (-0.2, 0.2) if name.endswith('bias') else (0.8, 1.2)
        with torch.no_grad():
            parameter.uniform_(low, high, generator=generator)
    return module


@torch.no_grad()
def prepare(case: Case, folder: Path) -> float:
    """Write weights, input and the outputs of the plain form to ``folder``.

    Returns:
        The operations of a run, two per multiply-add; a training step has three times those of
        a forward pass.
    """
    generator = torch.Generator().manual_seed(1)
    images = torch.randn((case.batch, 3, *case.shape), generator=generator)
    if case.config is None:
        model = randomise(ConvNeXt(case.arch, layer_scale_init_value=1.0)).eval()
        outputs = model(images)
        # A classifier's backbone ends before its head.
        parts = count_parts(build_classifier(case.arch), case.shape)
        macs = case.batch * sum(p.macs for p in parts if not p.name.endswith('norm + head'))
    else:
        cfg = read_config(case.config)
        images = torch.randint(0, 256, (3, *case.shape), dtype=torch.uint8, generator=generator)
        model = randomise(build_model(cfg)).eval()
        outputs = compared_outputs(model, model_input(cfg, images))
        macs = sum(part.macs for part in count_parts(build_on_meta(cfg), case.shape))
    save_file(model.state_dict(), folder / WEIGHTS)
    save_file(dict(images=images), folder / INPUT)
    maps = {str(i): output.contiguous() for i, output in enumerate(outputs)}
    save_file(maps, folder / REFERENCE)
    return 2.0 * macs * (3 if case.training else 1)


def largest_difference(outputs: Sequence[Any], folder: Path) -> float:
    """From the outputs of the plain form, as a fraction of the largest value of each."""
    reference = load_file(folder / REFERENCE)
    differences = []
    for i, output in enumerate(outputs):
        expected, found = reference[str(i)], torch.as_tensor(output).float()
        if found.shape != expected.shape:
            raise ValueError(
                f'expected output {i} to be of shape {tuple(expected.shape)}, got '
                f'{tuple(found.shape)}'
            )
        differences.append(((found - expected).abs().max() / expected.abs().max()).item())
    if len(differences) != len(reference):
        raise ValueError(f'expected {len(reference)} outputs, got {len(differences)}')
    return max(differences)


def saved_bytes(forward: Callable[[], Any], kept: Sequence[Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once.

    Args:
        forward: The forward pass.
        kept: Tensors that are there anyway, parameters and input, and do not count.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in kept}
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = forward()
    del outputs  # until here it held what was saved, so that no storage took another's place
    return sum(sizes.values())


# --- backbones ----------------------------------------------------------------------------------


def build_ours(arch: str, state: State, **options: Any) -> nn.Module:
    """Our backbone, plain."""
    backbone = ConvNeXt(arch, layer_scale_init_value=1.0, **options)
    backbone.load_state_dict(state)
    return backbone


def build_optimized(arch: str, state: State, dtype: torch.dtype | None = None) -> nn.Module:
    """Our backbone as it should be used for inference."""
    return optimize(build_ours(arch, state).eval(), dtype)


def optimize(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Our form for inference.

    Raises:
        RuntimeError: It would not compute in ``dtype`` on this processor.
    """
    from .inference import bf16_is_fast, optimize_for_inference

    if dtype is torch.bfloat16 and not bf16_is_fast():
        raise RuntimeError('ours computes in fp32 on this processor, not in bf16')
    return optimize_for_inference(model, dtype=dtype)


class PeerBackbone(nn.Module):
    """A peer with our weights.

    Args:
        body: The peer's network.
        layout: Its name in :data:`~convnext_backbones.layouts.LAYOUTS`.
        take_maps: From the network and images to the maps of the four stages.
        state: Our weights.
    """

    def __init__(
        self,
        body: nn.Module,
        layout: str,
        take_maps: Callable[[nn.Module, Tensor], Sequence[Tensor]],
        state: State,
    ) -> None:
        super().__init__()
        names = recognise(body.state_dict(), LAYOUTS[layout], prefix='').names
        shapes = {key: tensor.shape for key, tensor in body.state_dict().items()}
        body.load_state_dict({key: state[ours].view(shapes[key]) for ours, key in names.items()})
        self.body = body
        self.take_maps = take_maps
        self.norms = nn.ModuleList()
        if not LAYOUTS[layout].output_norms:
            for i in OUTPUTS:
                norm = LayerNorm2d(len(state[f'norm{i}.weight']), eps=NORM_EPS)
                norm.load_state_dict({key: state[f'norm{i}.{key}'] for key in ('weight', 'bias')})
                self.norms.append(norm)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The four normalised maps of ``x``."""
        maps = self.take_maps(self.body, x)
        if self.norms:
            maps = [norm(x) for norm, x in zip(self.norms, maps, strict=True)]
        return list(maps)


def build_timm(arch: str, state: State) -> nn.Module:
    """timm's feature extractor."""
    import timm

    body = timm.create_model(f'convnext_{arch}', features_only=True, out_indices=OUTPUTS)
    return PeerBackbone(body, 'timm', lambda body, x: body(x), state)


def build_torchvision(arch: str, state: State) -> nn.Module:
    """torchvision's classifier, without its end."""
    import torchvision

    build = getattr(torchvision.models, f'convnext_{arch}', None)
    if build is None:
        raise ValueError(f'torchvision has no convnext_{arch}')
    body = build(stochastic_depth_prob=0.0)
    del body.classifier

    def take_maps(body: nn.Module, x: Tensor) -> list[Tensor]:
        maps = []
        for i, layer in enumerate(body.features):
            x = layer(x)
            if i % 2:  # stem, stage, downsampling, stage, ...
                maps.append(x)
        return maps

    return PeerBackbone(body, 'torchvision', take_maps, state)


def build_transformers(arch: str, state: State) -> nn.Module:
    """Hugging Face's backbone."""
    from transformers import ConvNextBackbone, ConvNextConfig

    variant = resolve_variant(arch)
    config = ConvNextConfig(
        depths=list(variant.depths),
        hidden_sizes=list(variant.dims),
        layer_norm_eps=NORM_EPS,
        out_features=[f'stage{i + 1}' for i in OUTPUTS],
    )
    body = ConvNextBackbone(config)
    return PeerBackbone(body, 'transformers', lambda body, x: body(x).feature_maps, state)


def build_mmpretrain(arch: str, state: State) -> nn.Module:
    """mmpretrain's backbone, as its configs for dense prediction have it."""
    import_mmpretrain()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        body = MODELS.build(mmpretrain_backbone(arch))
    return PeerBackbone(body, 'mmpretrain', lambda body, x: body(x), state)


def mmpretrain_backbone(arch: str | Mapping) -> dict:
    """The config of mmpretrain's backbone, for any scope."""
    variant = resolve_variant(arch)
    return dict(
        type='mmpretrain.ConvNeXt',
        arch=dict(depths=variant.depths, channels=variant.dims),
        out_indices=OUTPUTS,
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
    )


def import_mmpretrain() -> None:
    """Import mmpretrain's models without what unrelated parts of it need.

    All of them, which its registry wants to have: mmdet tries the same import, and leaves half of
    it behind where torchvision is missing.

    Its metric of visual grounding wants torchvision, for which an empty module stands in, and its
    multimodal models an older transformers; they are left out.
    """
    from mmpretrain.utils import dependency

    stubs = {}
    if importlib.util.find_spec('torchvision') is None:
        names = ('torchvision', 'torchvision.ops', 'torchvision.ops.boxes')
        stubs = {name: types.ModuleType(name) for name in names}
        stubs['torchvision'].ops = stubs['torchvision.ops']
        stubs['torchvision.ops'].boxes = stubs['torchvision.ops.boxes']
    sys.modules.update(stubs)
    try:
        with mock.patch.object(dependency, 'WITH_MULTIMODAL', False):
            import mmpretrain.models  # noqa: F401
    finally:
        for name in stubs:
            del sys.modules[name]


def build_swin(arch: str, state: State) -> nn.Module:
    """mmdet's Swin Transformer of the same size, with weights of its own."""
    from mmdet.models import SwinTransformer

    options = {key: value for key, value in swin_backbone(arch).items() if key != 'type'}
    return randomise(SwinTransformer(**options))


def swin_backbone(arch: str | Mapping) -> dict:
    """The config of the Swin Transformer of the same size, of mmdet and mmseg.

    Raises:
        ValueError: There is none.
    """
    if isinstance(arch, Mapping) or arch not in SWIN:
        raise ValueError(f'there is a Swin for {", ".join(SWIN)} only')
    return SWIN[arch]


PEERS = dict(
    timm=build_timm,
    torchvision=build_torchvision,
    transformers=build_transformers,
    mmpretrain=build_mmpretrain,
)


def _load(case: Case, folder: Path, build: Callable, channels_last: bool) -> tuple:
    """A backbone and the images."""
    module = build(case.arch, load_file(folder / WEIGHTS))
    images = load_file(folder / INPUT)['images'].clone()
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    return module, images


def in_torch(
    case: Case,
    folder: Path,
    build: Callable[[str, State], nn.Module],
    channels_last: bool = False,
    compiled: bool = False,
    dtype: torch.dtype = torch.float32,
    same_weights: bool = True,
) -> Prepared:
    """Inference of a torch module.

    Args:
        case: What to compute.
        folder: Of :func:`prepare`.
        build: From a variant and our weights to a module.
        channels_last: The memory format of weights and input; False leaves them alone.
        compiled: Whether ``torch.compile`` gets it, weights frozen.
        dtype: Of weights and input.
        same_weights: Whether it computes the same as ours.
    """
    module, images = _load(case, folder, build, channels_last)
    module.eval().requires_grad_(False)
    if dtype is not torch.float32:
        module, images = module.to(dtype), images.to(dtype)
    forward = module
    if compiled:
        from torch._inductor import config

        config.freezing = True
        forward = torch.compile(module)
        # Compiling belongs to building: what the compiler leaves in memory is not the network's.
        with torch.no_grad():
            forward(images)

    @torch.no_grad()
    def run() -> Sequence[Tensor]:
        return forward(images)

    def flops() -> int:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    if same_weights:
        return Prepared(run, dict(difference=lambda: largest_difference(run(), folder)))
    return Prepared(run, dict(flops=flops))


def in_training(
    case: Case,
    folder: Path,
    build: Callable[[str, State], nn.Module],
    channels_last: bool = False,
) -> Prepared:
    """A training step; the arguments are those of :func:`in_torch`."""
    module, images = _load(case, folder, build, channels_last)
    module.train()

    def forward() -> Tensor:
        return sum(x.square().sum() for x in module(images))

    def run() -> None:
        module.zero_grad(set_to_none=True)
        forward().backward()

    def difference() -> float:
        return largest_difference([x.detach() for x in module(images)], folder)

    def activations() -> int:
        return saved_bytes(forward, [*module.parameters(), images])

    return Prepared(run, dict(difference=difference, activations=activations))


def in_openvino(case: Case, folder: Path, precision: str) -> Prepared:
    """OpenVINO, given our plain backbone for one input size.

    Args:
        case: What to compute.
        folder: Of :func:`prepare`.
        precision: ``f32`` or ``bf16``.
    """
    import openvino

    module, images = _load(case, folder, build_ours, channels_last=False)
    module.eval().requires_grad_(False)
    converted = openvino.convert_model(module, example_input=images, input=[list(images.shape)])
    settings = dict(
        INFERENCE_PRECISION_HINT=precision,
        INFERENCE_NUM_THREADS=case.threads,
        PERFORMANCE_HINT='LATENCY',
        NUM_STREAMS=1,
    )
    compiled = openvino.Core().compile_model(converted, 'CPU', settings)
    chosen = compiled.get_property('INFERENCE_PRECISION_HINT').to_string()
    if chosen != precision:
        raise RuntimeError(f'OpenVINO computes in {chosen} on this processor, not in {precision}')
    request = compiled.create_infer_request()
    images = images.numpy()

    def run() -> list:
        return list(request.infer([images], share_inputs=True, share_outputs=True).values())

    return Prepared(run, dict(difference=lambda: largest_difference(run(), folder)))


def in_onnxruntime(case: Case, folder: Path) -> Prepared:
    """ONNX Runtime, given our plain backbone for one input size."""
    import onnxruntime

    module, images = _load(case, folder, build_ours, channels_last=False)
    module.eval().requires_grad_(False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    # Threads that spin between turns would take the processor from the next contender.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    with tempfile.TemporaryDirectory() as exported:
        path = Path(exported) / 'backbone.onnx'
        torch.onnx.export(module, (images,), path, dynamo=True)
        session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    inputs = {session.get_inputs()[0].name: images.numpy()}

    def run() -> list:
        return session.run(None, inputs)

    return Prepared(run, dict(difference=lambda: largest_difference(run(), folder)))


# --- whole models ---------------------------------------------------------------------------


def read_config(path: str) -> Config:
    """A detection or segmentation config, set up to be timed; see the top of this module.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: The config cannot be read, or its backbone is not our ConvNeXt.
    """
    cfg = load_config(argparse.Namespace(config=path, cfg_options=None))
    if cfg.model.backbone.get('type') != 'ConvNeXt':
        raise ValueError(
            f"expected a config whose backbone has type='ConvNeXt', got "
            f'{cfg.model.backbone.get("type")!r} in {path!r}'
        )
    cfg.model.backbone.pop('init_cfg', None)
    adapt_to_hardware(cfg)
    if cfg.default_scope == 'mmseg':
        cfg.model.test_cfg = dict(mode='whole')
    return cfg


def build_model(cfg: Config) -> nn.Module:
    """The model of a config, with any weights."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


def model_input(cfg: Config, image: Tensor) -> dict:
    """What a data loader gives ``test_step`` for one image, uint8 of shape (3, H, W)."""
    if cfg.default_scope == 'mmdet':
        from mmdet.structures import DetDataSample as DataSample
    else:
        from mmseg.structures import SegDataSample as DataSample
    shape = tuple(image.shape[1:])
    metainfo = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, scale_factor=(1.0, 1.0))
    return dict(inputs=[image], data_samples=[DataSample(metainfo=metainfo)])


@torch.no_grad()
def compared_outputs(model: nn.Module, data: dict) -> list[Tensor]:
    """What is compared of a model: the logits of a segmentor, the neck's maps of a detector.

    The boxes of a detector are chosen, and no two roundings need choose the same.
    """
    if hasattr(model, 'decode_head'):
        return [model.test_step(data)[0].seg_logits.data]
    inputs = model.data_preprocessor(data, False)['inputs']
    return list(model.extract_feat(inputs))


def whole_model(
    case: Case,
    folder: Path,
    backbone: str = 'ours',
    optimized: bool = False,
    dtype: torch.dtype | None = None,
) -> Prepared:
    """``test_step`` of a detector or a segmentor.

    Args:
        case: With a config.
        folder: Of :func:`prepare`.
        backbone: ``ours``, ``mmpretrain``, or ``swin``, whose weights are its own.
        optimized: Whether our form for inference is taken.
        dtype: Of that form.
    """
    cfg = read_config(case.config)
    state = load_file(folder / WEIGHTS)
    images = load_file(folder / INPUT)['images'].clone()
    measures = {}
    if backbone == 'mmpretrain':
        import_mmpretrain()
        cfg.model.backbone = mmpretrain_backbone(case.arch)
        ours = {key.removeprefix(PREFIX): x for key, x in state.items() if key.startswith(PREFIX)}
        rest = {key: x for key, x in state.items() if not key.startswith(PREFIX)}
        state = {**rest, **export(ours, LAYOUTS['mmpretrain'], inside=True)[0]}
    elif backbone == 'swin':
        cfg = replace_backbone(cfg, swin_backbone(case.arch))
        macs = sum(part.macs for part in count_parts(build_on_meta(cfg), case.shape))
        measures['flops'] = lambda: 2 * macs
    model = build_model(cfg)
    if backbone == 'swin':
        randomise(model)
    else:
        model.load_state_dict(state)
    model.eval().requires_grad_(False)
    if optimized:
        model = optimize(model, dtype)
    data = model_input(cfg, images)

    @torch.no_grad()
    def run() -> Any:
        return model.test_step(data)

    if cfg.default_scope == 'mmdet':
        measures['detections'] = lambda: len(run()[0].pred_instances)
    if backbone != 'swin':
        measures['difference'] = lambda: largest_difference(compared_outputs(model, data), folder)
    return Prepared(run, measures)


# --- lists ----------------------------------------------------------------------------------


def list_contenders(case: Case, folder: Path) -> dict[str, Contender]:
    """All contenders of a case by name: the peers, then ours."""
    if case.config is not None:
        make = partial(whole_model, case, folder)
        found = {
            'mmpretrain': Contender('mmpretrain', partial(make, 'mmpretrain')),
            'Swin': Contender('Swin', partial(make, 'swin')),
        }
        return found | _ours(
            {
                'ours': make,
                'ours optimized': partial(make, optimized=True),
                'ours bf16': partial(make, optimized=True, dtype=torch.bfloat16),
            }
        )
    formats = (('', {}), (' channels_last', dict(channels_last=True)))
    make = partial(in_training if case.training else in_torch, case, folder)
    builds = {
        f'{name}{suffix}': partial(make, build, **options)
        for name, build in PEERS.items()
        for suffix, options in formats
    }
    if case.training:
        lean = partial(build_ours, memory_efficient=True)
        ours = {
            'ours': partial(make, build_ours),
            'ours memory_efficient': partial(make, lean),
            'ours with_cp': partial(make, partial(build_ours, with_cp=True)),
        }
    else:
        for name in ('timm', 'torchvision'):
            builds[f'{name} compiled'] = partial(make, PEERS[name], compiled=True)
            builds[f'{name} bf16'] = partial(
                make, PEERS[name], channels_last=True, dtype=torch.bfloat16
            )
        builds['openvino'] = partial(in_openvino, case, folder, 'f32')
        builds['openvino bf16'] = partial(in_openvino, case, folder, 'bf16')
        builds['onnxruntime'] = partial(in_onnxruntime, case, folder)
        builds['Swin'] = partial(make, build_swin, same_weights=False)
        ours = {
            'ours': partial(make, build_ours),
            'ours compiled': partial(make, build_ours, compiled=True),
            'ours optimized': partial(make, build_optimized),
            'ours bf16': partial(make, partial(build_optimized, dtype=torch.bfloat16)),
        }
    return {name: Contender(name, build, dtype=_dtype(name)) for name, build in builds.items()} | (
        _ours(ours)
    )


def _ours(builds: dict[str, Callable[[], Prepared]]) -> dict[str, Contender]:
    return {
        name: Contender(name, build, ours=True, dtype=_dtype(name))
        for name, build in builds.items()
    }


def _dtype(name: str) -> str:
    return 'bf16' if name.endswith('bf16') else 'fp32'


@contextlib.contextmanager
def prepared_folder():
    """A temporary folder for :func:`prepare`."""
    with tempfile.TemporaryDirectory(prefix='convnext_benchmark_') as folder:
        yield Path(folder)
