"""List the contenders: ours, the peers from PyPI, and runtimes that run exported networks.

All read the same weights and the same input from one folder, and so compute the same function. The
report includes the difference of their outputs from those of our plain form. Weights are random,
with activations of unit scale and a layer scale of about one.

A backbone returns the maps of its four stages, each normalized by a LayerNorm. The authors' own
code cannot be compared, because it is not on PyPI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..inference.exported import RUNTIMES
from ..models.convnext import ConvNeXt
from ..ops.providers import PROVIDERS
from .case import INPUT, REFERENCE, WEIGHTS, Case, randomize
from .complexity import build_classifier
from .counting import count_parts
from .peers import PEERS, build_swin
from .runtimes import (
    build_optimized,
    build_ours,
    in_onnxruntime,
    in_openvino,
    in_torch,
    in_training,
)
from .whole_models import prepare_model, whole_model
from .worker import Contender, Prepared


@torch.no_grad()
def prepare(case: Case, folder: Path) -> float:
    """Write weights, input and the outputs of the plain form to ``folder``.

    Returns:
        The operations of a run, two per multiply-add; a training step counts as three forward
        passes.
    """
    prepare_case = _prepare_backbone if case.config is None else prepare_model
    model, outputs, macs = prepare_case(case, folder)
    # Copies, because heads may share layers, and a file of weights holds none twice.
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    maps = {str(i): output.contiguous() for i, output in enumerate(outputs)}
    save_file(maps, folder / REFERENCE)
    return 2.0 * macs * (3 if case.training else 1)


def _prepare_backbone(case: Case, folder: Path) -> tuple[nn.Module, Sequence[Tensor], int]:
    """Write the images; return our backbone, its maps, and the multiply-adds of a forward pass."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn((case.batch, 3, *case.shape), generator=generator)
    save_file(dict(images=images), folder / INPUT)
    model = randomize(ConvNeXt(case.arch, use_grn=case.use_grn)).eval()
    parts = count_parts(build_classifier(case.arch, case.use_grn), case.shape)
    # The backbone of a classifier ends before its head.
    macs = case.batch * sum(p.macs for p in parts if not p.name.endswith('norm + head'))
    return model, model(images), macs


def list_contenders(case: Case, folder: Path) -> dict[str, Contender]:
    """Return all contenders of a case by name: first the peers, then ours.

    Args:
        case: What to compute.
        folder: Folder that :func:`prepare` fills.
    """
    if case.config is not None:
        peers, ours = _whole_models(case, folder)
    elif case.training:
        peers, ours = _in_training(case, folder)
    else:
        peers, ours = _in_inference(case, folder)
    listed = {name: Contender(name, build, dtype=_dtype(name)) for name, build in peers.items()}
    for name, build in ours.items():
        listed[name] = Contender(name, build, ours=True, dtype=_dtype(name))
    if case.config is not None:
        for provider in PROVIDERS:
            name, build = f'operators of {provider}', partial(whole_model, case, folder)
            build = partial(build, operators=provider)
            listed[name] = Contender(name, build, ours=True, optional=True)
        for format_, runtime in EXPORTED.items():
            build = partial(whole_model, case, folder, format_=format_)
            listed[f'ours {runtime}'] = Contender(
                f'ours {runtime}', build, ours=True, optional=True
            )
    return listed


# Formats of exported models, and what runs them.
EXPORTED = {format_: RUNTIMES[format_] for format_ in ('onnx', 'openvino')}
# The peers that are also compiled, and run in bf16.
FAST_PEERS = ('timm', 'torchvision')
Builds = dict[str, Callable[[], Prepared]]


def _whole_models(case: Case, folder: Path) -> tuple[Builds, Builds]:
    make = partial(whole_model, case, folder)
    peers: Builds = {'mmpretrain': partial(make, 'mmpretrain'), 'Swin': partial(make, 'swin')}
    ours: Builds = {
        'ours': make,
        'ours optimized': partial(make, optimized=True),
        'ours bf16': partial(make, optimized=True, dtype=torch.bfloat16),
    }
    return peers, ours


def _in_training(case: Case, folder: Path) -> tuple[Builds, Builds]:
    make = partial(in_training, case, folder)
    ours: Builds = {
        'ours': partial(make, build_ours),
        'ours memory_efficient': partial(make, partial(build_ours, memory_efficient=True)),
        'ours with_cp': partial(make, partial(build_ours, with_cp=True)),
    }
    in_bf16 = partial(make, dtype=torch.bfloat16)
    ours['ours bf16'] = partial(in_bf16, build_ours)
    lean = partial(build_ours, memory_efficient=True)
    ours['ours memory_efficient bf16'] = partial(in_bf16, lean)
    peers = _in_both_formats(make)
    for name in FAST_PEERS:
        peers[f'{name} channels_last bf16'] = partial(in_bf16, PEERS[name], channels_last=True)
    return peers, ours


def _in_inference(case: Case, folder: Path) -> tuple[Builds, Builds]:
    make = partial(in_torch, case, folder)
    peers = _in_both_formats(make)
    for name in FAST_PEERS:
        build = PEERS[name]
        peers[f'{name} compiled'] = partial(make, build, compiled=True)
        in_bf16 = partial(make, build, channels_last=True, dtype=torch.bfloat16)
        peers[f'{name} bf16'] = in_bf16
        peers[f'{name} bf16 compiled'] = partial(in_bf16, compiled=True)
    peers['openvino'] = partial(in_openvino, case, folder, 'f32')
    peers['openvino bf16'] = partial(in_openvino, case, folder, 'bf16')
    peers['onnxruntime'] = partial(in_onnxruntime, case, folder)
    peers['Swin'] = partial(make, build_swin, same_weights=False)
    ours: Builds = {
        'ours': partial(make, build_ours),
        'ours compiled': partial(make, build_ours, compiled=True),
        'ours optimized': partial(make, build_optimized),
        'ours bf16': partial(make, partial(build_optimized, dtype=torch.bfloat16)),
    }
    return peers, ours


def _in_both_formats(make: Callable[..., Prepared]) -> Builds:
    """Return the peers in torch's default memory format and in channels_last."""
    builds: Builds = {}
    for name, build in PEERS.items():
        builds[name] = partial(make, build)
        builds[f'{name} channels_last'] = partial(make, build, channels_last=True)
    return builds


def _dtype(name: str) -> str:
    return 'bf16' if 'bf16' in name.split() else 'fp32'
