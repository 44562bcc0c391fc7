"""Run the implementations that files of weights come from, as they read the files themselves.

A builder per project: it builds the project's network, lets the project's own code give the tensors
of the file their places, and runs it. Nothing of ours translates a name. The projects are optional
and are imported when they are needed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import nn

from ..io.checkpoint import check_container, named_tensors, read_checkpoint
from .explain import CLIP_PREFIX
from .subject import MAP, Outputs, Picture, Subject, difference, last_output, refuse, run

# Options of our models that timm's have under the same names.
TIMM_OPTIONS = ('stem_type', 'patch_size', 'head_norm_first', 'head_hidden_size')
# transformers' default for the norm after pooling, and what the authors trained with.
TRANSFORMERS_EPS, AUTHORS_EPS = 1e-12, 1e-6
# open_clip's name of a model in the name of LAION's repository.
OPEN_CLIP_MODEL = re.compile(r'CLIP-(convnext_[a-z0-9_]+)[.-]')


# --- timm -------------------------------------------------------------------------------------


def run_timm(subject: Subject, picture: Picture) -> Outputs:
    """Run timm on its own files, or on the authors' and Meta's, whose names its filter knows."""
    import timm
    from timm.models.convnext import checkpoint_filter_fn

    published = subject.published
    if published is not None and published.origin == 'timm' and published.repo is not None:
        tag = published.repo.partition('/')[2]
        overlay = dict(file=str(subject.path))
        theirs = timm.create_model(tag, pretrained=True, pretrained_cfg_overlay=overlay)
    else:
        theirs = _timm_model(subject)
        outcome = timm.models.load_checkpoint(
            theirs,
            str(subject.path),
            use_ema=False,
            strict=False,
            filter_fn=checkpoint_filter_fn,
        )
        refuse(outcome.missing_keys, outcome.unexpected_keys, subject.without('head.'))
    return run(theirs, theirs.stages[-1], subject, picture)


def _timm_model(subject: Subject) -> nn.Module:
    """Return timm's model of the size, or one that it has no name for."""
    import timm
    from timm.models.convnext import ConvNeXt as TheirConvNeXt

    options = subject.options
    kwargs: dict[str, Any] = {key: options[key] for key in TIMM_OPTIONS if key in options}
    kwargs['num_classes'] = subject.classes
    if subject.layout == 'timm':
        kwargs['conv_mlp'] = subject.convolutions
    use_grn = bool(options.get('use_grn'))
    name = f'convnext{"v2" if use_grn else ""}_{options["arch"]}'
    if timm.is_model(name) and subject.has_scale != use_grn:
        return timm.create_model(name, pretrained=False, **kwargs)
    variant = subject.model.variant
    return TheirConvNeXt(
        depths=variant.depths,
        dims=variant.dims,
        norm_eps=variant.norm_eps,
        use_grn=use_grn,
        ls_init_value=1.0 if subject.has_scale else None,
        **kwargs,
    )


# --- open_clip --------------------------------------------------------------------------------


def run_open_clip(subject: Subject, picture: Picture) -> Outputs:
    """Run the image encoder of open_clip, with its projection if our model has it as the head."""
    import open_clip

    assert subject.published is not None
    found = OPEN_CLIP_MODEL.search(subject.published.repo or '')
    if found is None:
        raise ValueError('the name of the repository tells no model of open_clip')
    theirs = open_clip.create_model(found[1], pretrained=str(subject.path))
    encoder = theirs.visual if subject.classes else theirs.visual.trunk
    return run(encoder, theirs.visual.trunk.stages[-1], subject, picture)


# --- transformers -----------------------------------------------------------------------------


def run_transformers(subject: Subject, picture: Picture) -> Outputs:
    """Run transformers on a folder with the file; the config is of the sizes, not a download.

    The configs of the hub leave ``layer_norm_eps``, of the norm after pooling, at transformers'
    default of 1e-12. The authors trained with 1e-6, and so it is here; a note says what the other
    value changes.
    """
    import transformers

    is_v2 = bool(subject.options.get('use_grn'))
    family = f'ConvNext{"V2" if is_v2 else ""}'
    kwargs: dict[str, Any] = dict(num_labels=subject.classes) if subject.classes else {}
    if subject.layout == 'dinov3':
        family = 'DINOv3ConvNext'
    else:
        kwargs['layer_norm_eps'] = AUTHORS_EPS
    variant = subject.model.variant
    config = getattr(transformers, f'{family}Config')(
        depths=list(variant.depths), hidden_sizes=list(variant.dims), **kwargs
    )
    kind = 'ForImageClassification' if subject.classes else 'Model'
    with _as_folder(subject.path) as folder:
        theirs, info = getattr(transformers, f'{family}{kind}').from_pretrained(
            folder, config=config, output_loading_info=True
        )
    allowed = subject.without('layernorm.', 'layer_norm.')
    wrong = [*info['unexpected_keys'], *(key for key, *_ in info['mismatched_keys'])]
    refuse(info['missing_keys'], wrong, allowed)
    theirs = theirs.float().eval()
    with torch.inference_mode():
        outputs = theirs(picture.normalized, output_hidden_states=True)
        tensors = {MAP: outputs.hidden_states[-1]}
        if not subject.has_norm:
            return Outputs(tensors)
        tensors[subject.output] = outputs.logits if subject.classes else outputs.pooler_output
        if subject.layout == 'dinov3':
            return Outputs(tensors)
        norm = getattr(theirs, theirs.base_model_prefix, theirs).layernorm
        norm.eps = TRANSFORMERS_EPS
        usual = norm(tensors[MAP].mean((-2, -1)))
        if subject.classes:
            usual = theirs.classifier(usual)
    change = difference(tensors[subject.output], usual)
    return Outputs(
        tensors,
        (
            f"transformers' own config has layer_norm_eps={TRANSFORMERS_EPS:g} for the norm after "
            f'pooling instead of {AUTHORS_EPS:g}, which changes the {subject.output} by '
            f'{change:.1e}',
        ),
    )


@contextmanager
def _as_folder(path: Path) -> Iterator[str]:
    """Give a file the name that transformers looks for."""
    is_safetensors = check_container(path) == 'safetensors'
    name = 'model.safetensors' if is_safetensors else 'pytorch_model.bin'
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(path.resolve(), Path(folder, name))
        yield folder


# --- mmpretrain -------------------------------------------------------------------------------


def run_mmpretrain(subject: Subject, picture: Picture) -> Outputs:
    """Run mmpretrain's backbone, and its head if the file has one."""
    import_mmpretrain()
    from mmpretrain.models.backbones.convnext import ConvNeXt as TheirConvNeXt
    from mmpretrain.models.heads import LinearClsHead

    variant, options = subject.model.variant, subject.options
    backbone = TheirConvNeXt(
        arch=dict(depths=list(variant.depths), channels=list(variant.dims)),
        stem_patch_size=options.get('patch_size', 4),
        linear_pw_conv=not subject.convolutions,
        use_grn=bool(options.get('use_grn')),
        layer_scale_init_value=float(subject.has_scale),
    )
    theirs = nn.ModuleDict(dict(backbone=backbone))
    if subject.classes:
        theirs['head'] = LinearClsHead(subject.classes, variant.dims[-1])
    # The reader of containers is ours, which executes nothing; the names are the file's.
    tensors = named_tensors(read_checkpoint(subject.path), subject.path)
    if subject.prefix:
        # Beside the network a file of a pretraining has a decoder.
        parts = tuple(f'{part}.' for part in theirs)
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith(parts)}
        outcome = theirs.load_state_dict(tensors, strict=False)
    else:
        outcome = backbone.load_state_dict(tensors, strict=False)
    allowed = subject.without('norm3.', 'backbone.norm3.')
    refuse(outcome.missing_keys, outcome.unexpected_keys, allowed)
    theirs.eval()
    with torch.inference_mode(), last_output(backbone.stages[-1][-1]) as maps:
        features = backbone(picture.normalized)
        output = theirs['head'](features) if subject.classes else features[-1]
    tensors = {MAP: maps[0]} | ({subject.output: output} if subject.has_norm else {})
    return Outputs(tensors)


def import_mmpretrain() -> None:
    """Import all models of mmpretrain, without the dependencies of its unrelated parts.

    Call it before mmdet tries the same import, which leaves mmpretrain half-imported if
    torchvision is missing. mmpretrain needs torchvision for a metric only, so an empty module
    replaces it. Its multimodal models need an older transformers and are skipped.
    """
    from mmpretrain.utils import dependency

    stubs: dict[str, Any] = {}
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


# --- torchvision ------------------------------------------------------------------------------


def run_torchvision(subject: Subject, picture: Picture) -> Outputs:
    """Run torchvision's network of the sizes of the file."""
    from torchvision.models.convnext import CNBlockConfig
    from torchvision.models.convnext import ConvNeXt as TheirConvNeXt

    variant = subject.model.variant
    following = [*variant.dims[1:], None]
    stages = [
        CNBlockConfig(*sizes) for sizes in zip(variant.dims, following, variant.depths, strict=True)
    ]
    theirs = TheirConvNeXt(stages, num_classes=subject.classes or 1)
    if not subject.classes:
        theirs.classifier[2] = nn.Identity()
    tensors = named_tensors(read_checkpoint(subject.path), subject.path)
    outcome = theirs.load_state_dict(tensors, strict=False)
    refuse(outcome.missing_keys, outcome.unexpected_keys, subject.without('classifier.'))
    return run(theirs, theirs.features, subject, picture)


# --- Keras ------------------------------------------------------------------------------------


def run_keras(subject: Subject, picture: Picture) -> Outputs:
    """Run keras.applications on pixels: its graph begins with the normalization."""
    os.environ.setdefault('KERAS_BACKEND', 'torch')
    import keras

    arch = str(subject.options['arch'])
    name = {'xlarge': 'XLarge'}.get(arch, arch.capitalize())
    build = getattr(keras.applications, f'ConvNeXt{name}', None)
    if build is None:
        raise ValueError(f'keras.applications has no ConvNeXt{name}')
    kwargs: dict[str, Any] = dict(include_top=False, pooling='avg')
    if subject.classes:
        kwargs = dict(classes=subject.classes, classifier_activation=None)
    shape = tuple(picture.pixels.shape[1:])
    theirs = build(weights=str(subject.path), input_shape=shape, **kwargs)
    pooling = next(
        layer
        for layer in reversed(theirs.layers)
        if isinstance(layer, keras.layers.GlobalAveragePooling2D)
    )
    both = keras.Model(theirs.input, [pooling.input, theirs.output])
    with torch.inference_mode():
        found = both(picture.pixels.float().numpy(), training=False)
    last, output = (torch.as_tensor(keras.ops.convert_to_numpy(one)) for one in found)
    return Outputs({MAP: last.permute(0, 3, 1, 2), subject.output: output})


# --- all --------------------------------------------------------------------------------------


class Origin(NamedTuple):
    """One project.

    Attributes:
        module: The module to import.
        package: What to install.
        run: Its builder.
    """

    module: str
    package: str
    run: Callable[[Subject, Picture], Outputs]

    def installed(self) -> bool:
        """Whether its module can be found."""
        return importlib.util.find_spec(self.module) is not None

    def label(self) -> str:
        """Return its name and version."""
        try:
            return f'{self.module} {version(self.package)}'
        except PackageNotFoundError:
            return self.module


TIMM, HUGGING_FACE = Origin('timm', 'timm', run_timm), 'transformers'
OPEN_CLIP = Origin('open_clip', 'open_clip_torch', run_open_clip)
# By the layout of the file. The authors' and Meta's code is not on PyPI; timm reads their files.
ORIGINS: dict[str, Origin] = {
    'official': TIMM,
    'meta': TIMM,
    'timm': TIMM,
    'transformers': Origin(HUGGING_FACE, HUGGING_FACE, run_transformers),
    'dinov3': Origin(HUGGING_FACE, HUGGING_FACE, run_transformers),
    'mmpretrain': Origin('mmpretrain', 'mmpretrain', run_mmpretrain),
    'torchvision': Origin('torchvision', 'torchvision', run_torchvision),
    'keras': Origin('keras', 'keras', run_keras),
}


def origin_of(subject: Subject) -> Origin | None:
    """Return the project that reads a file; None if there is none that reads it alone."""
    if f'.{subject.prefix}'.endswith(f'.{CLIP_PREFIX}'):
        # Which text encoder is beside the trunk is known from the name of the repository only.
        return OPEN_CLIP if subject.published is not None else None
    return ORIGINS.get(subject.layout)
