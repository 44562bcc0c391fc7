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

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..engine.build import build_on_meta
from ..models.convnext import ConvNeXt
from .case import INPUT, REFERENCE, WEIGHTS, Case, randomize
from .complexity import build_classifier, count_parts
from .peers import PEERS, build_swin
from .race import Contender, Prepared
from .runtimes import (
    build_optimized,
    build_ours,
    in_onnxruntime,
    in_openvino,
    in_torch,
    in_training,
)
from .whole_models import build_untrained, compared_outputs, model_input, read_config, whole_model


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
        model = randomize(ConvNeXt(case.arch, layer_scale_init_value=1.0)).eval()
        outputs = model(images)
        # A classifier's backbone ends before its head.
        parts = count_parts(build_classifier(case.arch), case.shape)
        macs = case.batch * sum(p.macs for p in parts if not p.name.endswith('norm + head'))
    else:
        cfg = read_config(case.config)
        images = torch.randint(0, 256, (3, *case.shape), dtype=torch.uint8, generator=generator)
        model = randomize(build_untrained(cfg)).eval()
        outputs = compared_outputs(model, model_input(cfg, images))
        macs = sum(part.macs for part in count_parts(build_on_meta(cfg), case.shape))
    save_file(model.state_dict(), folder / WEIGHTS)
    save_file(dict(images=images), folder / INPUT)
    maps = {str(i): output.contiguous() for i, output in enumerate(outputs)}
    save_file(maps, folder / REFERENCE)
    return 2.0 * macs * (3 if case.training else 1)


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
