"""Prepare a backbone for timing in torch, in a training step, in OpenVINO and ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..inference.fast_form import bf16_is_fast
from ..inference.optimize import optimize_for_inference
from ..inference.tuning import choices_of
from ..models.convnext import ConvNeXt
from .case import INPUT, WEIGHTS, Case, State, is_v2, largest_difference, saved_bytes
from .worker import Prepared


def build_ours(arch: str, state: State, **options: Any) -> nn.Module:
    """Build our backbone in its plain form."""
    backbone = ConvNeXt(arch, use_grn=is_v2(state), **options)
    backbone.load_state_dict(state)
    return backbone


def build_optimized(arch: str, state: State, dtype: torch.dtype | None = None) -> nn.Module:
    """Build our backbone in its form for inference."""
    return optimize(build_ours(arch, state).eval(), dtype)


def optimize(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Return our form of ``model`` for inference.

    Raises:
        RuntimeError: It would not compute in ``dtype`` on this processor.
    """
    if dtype is torch.bfloat16 and not bf16_is_fast():
        raise RuntimeError('ours computes in fp32 on this processor, not in bf16')
    return optimize_for_inference(model, dtype=dtype)


def _load_case(
    case: Case, folder: Path, build: Callable[[Any, State], nn.Module], channels_last: bool
) -> tuple[nn.Module, Tensor]:
    """Return a backbone and the images."""
    module: Any = build(case.arch, load_file(folder / WEIGHTS))
    images = load_file(folder / INPUT)['images'].clone()
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    return module, images


def in_torch(
    case: Case,
    folder: Path,
    build: Callable[[Any, State], nn.Module],
    channels_last: bool = False,
    compiled: bool = False,
    dtype: torch.dtype = torch.float32,
    same_weights: bool = True,
) -> Prepared:
    """Prepare inference of a torch module.

    Args:
        case: What to compute.
        folder: Folder that :func:`.contenders.prepare` filled.
        build: Builds the module from a variant and our weights.
        channels_last: Whether to convert weights and input to channels_last.
        compiled: Whether to compile the module, with frozen weights.
        dtype: Data type of weights and input.
        same_weights: Whether the module computes the same function as ours.
    """
    module, images = _load_case(case, folder, build, channels_last)
    module.eval().requires_grad_(False)
    if dtype is not torch.float32:
        module, images = module.to(dtype), images.to(dtype)
    forward: Callable[[Tensor], Any] = module
    if compiled:
        from torch._inductor import config

        config.freezing = True
        forward = torch.compile(module)
        # Compile while building: memory that the compiler keeps is not the network's.
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
        measures = dict(
            difference=lambda: largest_difference(run(), folder),
            choices=lambda: choices_of(module),
        )
        return Prepared(run, measures)
    return Prepared(run, dict(flops=flops))


def in_training(
    case: Case,
    folder: Path,
    build: Callable[[Any, State], nn.Module],
    channels_last: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Prepared:
    """Prepare a training step; see :func:`in_torch` for the arguments.

    A ``dtype`` of bfloat16 computes the maps under autocast; parameters and their gradients stay in
    fp32. As torch recommends, the backward pass is outside of autocast: its operations take the
    types of those of the forward pass.
    """
    module, images = _load_case(case, folder, build, channels_last)
    module.train()

    def maps() -> Any:
        with torch.autocast('cpu', torch.bfloat16, enabled=dtype is torch.bfloat16):
            return module(images)

    def forward() -> Tensor:
        return sum(x.square().sum() for x in maps())

    def run() -> None:
        module.zero_grad(set_to_none=True)
        forward().backward()

    def difference() -> float:
        return largest_difference([x.detach() for x in maps()], folder)

    def activations() -> int:
        return saved_bytes(forward, [*module.parameters(), images])

    return Prepared(run, dict(difference=difference, activations=activations))


def in_openvino(case: Case, folder: Path, precision: str) -> Prepared:
    """Prepare our plain backbone, converted for one input size, in OpenVINO.

    Args:
        case: What to compute.
        folder: Folder that :func:`.contenders.prepare` filled.
        precision: ``f32`` or ``bf16``.

    Raises:
        RuntimeError: OpenVINO does not compute in this precision on this processor.
    """
    import openvino

    module, images = _load_case(case, folder, build_ours, channels_last=False)
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
    array = images.numpy()

    def run() -> list:
        return list(request.infer([array], share_inputs=True, share_outputs=True).values())

    return Prepared(run, dict(difference=lambda: largest_difference(run(), folder)))


def in_onnxruntime(case: Case, folder: Path) -> Prepared:
    """Prepare our plain backbone, exported for one input size, in ONNX Runtime."""
    import onnxruntime

    module, images = _load_case(case, folder, build_ours, channels_last=False)
    module.eval().requires_grad_(False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    # Threads that spin between turns would slow down the next contender.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    with tempfile.TemporaryDirectory() as exported:
        path = Path(exported) / 'backbone.onnx'
        torch.onnx.export(module, (images,), path, dynamo=True)
        session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    inputs = {session.get_inputs()[0].name: images.numpy()}

    def run() -> list:
        return session.run(None, inputs)

    return Prepared(run, dict(difference=lambda: largest_difference(run(), folder)))
