"""Write a trained model as a folder for the Hugging Face hub: weights, config and model card."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from importlib import metadata
from numbers import Real
from pathlib import Path
from typing import Any, cast

from mmengine.config import Config
from torch import Tensor, nn

from ..config.loading import load_config
from ..config.plain import is_plain, plain_config, read_plain_config
from ..config.walk import entry_at, walk
from ..io.checkpoint import write_safetensors
from ..io.files import check_file, write_atomically
from ..io.hub import FILES, has_library, split_hub_name
from ..io.mmengine_patches import read_files_safely
from ..io.silence import silenced
from ..io.wording import first_names
from ..models.convnext import ConvNeXt
from ..version import __version__
from ..weights.model_files import CONFIG
from .build import build_model
from .data_facts import data_facts
from .model_card import LIBRARY, CardFacts, Measured, ModelFacts, model_card
from .publishing import KEPT, kept, read_trained, sha256
from .training_facts import (
    config_in,
    environment_of,
    starting_weights,
    training_facts,
    validation_of,
)

WEIGHTS, CARD = FILES[0], 'README.md'
PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmcv-lite', 'mmdet', 'mmsegmentation')
# Entries of the backbone's config that are no keywords of the network to be filled with weights.
NOT_OPTIONS = ('type', 'init_cfg', 'pretrained')


@dataclass(frozen=True)
class Stated:
    """What only the publisher of a model knows.

    Attributes:
        repo: Repository of the hub that the folder is for, ``OWNER/NAME``.
        dataset: Name of the data, or their repository of the hub.
        licence: Licence of the model, by the identifier of the hub.
        metrics: ``metrics.json`` that ``tools/test.py`` wrote for this checkpoint.
    """

    repo: str = ''
    dataset: str = ''
    licence: str = ''
    metrics: str | os.PathLike | None = None


def publish_for_hub(
    checkpoint: str | os.PathLike,
    config: str | os.PathLike,
    folder: str | os.PathLike,
    stated: Stated | None = None,
    ema: bool = False,
) -> tuple[Path, str]:
    """Write ``model.safetensors``, ``config.json`` and the model card ``README.md`` into a folder.

    Before the folder gets its name, a model is built from the two files.

    Args:
        checkpoint: A file of any container, of a detector or a segmentor.
        config: A Python config, which is executed, or one of plain data.
        folder: The folder to write, which must not exist, or be empty.
        stated: For the card.
        ema: Take the averaged weights of a training checkpoint.

    Returns:
        The path of the folder; and why the data could not be counted, empty if they were.

    Raises:
        FileNotFoundError: There is no such checkpoint, config or file of metrics.
        ValueError: One of them cannot be used, or they do not fit together; the folder is not
            empty; or huggingface_hub is not installed.
    """
    stated, out = stated or Stated(), Path(os.path.abspath(folder))
    _check(stated, out)
    read_files_safely()
    cfg = load_config(config)
    tensors, meta = read_trained(checkpoint, ema)
    measured = _measured(checkpoint, meta, stated.metrics)
    plain = _with_classes(plain_config(cfg), meta)
    # mmengine and pycocotools print what they read.
    with _draft(out) as draft, silenced(logging.INFO), redirect_stdout(sys.stderr):
        write_safetensors(draft / WEIGHTS, tensors, kept(meta))
        model = _build(plain, draft / WEIGHTS, checkpoint)
        _check_filled(model, tensors)
        config_read = _write_config(draft, plain, model)
        data = data_facts(cfg, tuple(cast(Any, model).dataset_meta.get('classes') or ()))
        recorded = config_in(meta)
        trained = recorded or cfg.to_dict()
        facts = CardFacts(
            name=(stated.repo or out.name).rpartition('/')[2],
            repo=stated.repo,
            checkpoint=Path(checkpoint).name,
            sha256=sha256(draft / WEIGHTS),
            model=model_facts(model, config_read),
            data=data,
            dataset=stated.dataset,
            training=training_facts(trained, meta, environment_of(checkpoint, meta)),
            recorded=recorded is not None,
            # Configs of plain data do not say what a training starts from.
            start=starting_weights(trained) if recorded or not is_plain(config) else None,
            measured=measured,
            licence=stated.licence,
            versions={LIBRARY: __version__, **_versions()},
        )
        write_atomically(draft / CARD, model_card(facts))
    return out, data.problem


def _check(stated: Stated, out: Path) -> None:
    """Refuse what cannot be written, before anything is read.

    Raises:
        ValueError: The folder is not empty, huggingface_hub is missing, or the name of the
            repository is none.
    """
    if not has_library():
        raise ValueError(
            'expected huggingface_hub, which writes the model card, and it is not installed; '
            "pip install 'convnext_backbones[hub]'"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f'expected a new or an empty folder, got {str(out)!r}')
    place = split_hub_name(stated.repo)
    if stated.repo and (place is None or place.repo != stated.repo):
        raise ValueError(f'expected a repository of the hub, OWNER/NAME, got {stated.repo!r}')


def _build(plain: Mapping[str, Any], weights: Path, checkpoint: str | os.PathLike) -> nn.Module:
    """Return the model of a plain config with the weights that are to be published.

    Raises:
        ValueError: They do not fit.
    """
    try:
        return build_model(Config(deepcopy(dict(plain))), str(weights), 'cpu')
    except ValueError as error:
        # The draft will be gone when the message is read.
        message = str(error).replace(str(weights), os.fspath(checkpoint))
        raise ValueError(message) from error


def _check_filled(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that leave parts of a model at random; for a ConvNeXt, loading has.

    Raises:
        ValueError: The model has tensors that the weights do not fill.
    """
    if isinstance(model.backbone, ConvNeXt):
        return
    empty = [
        name
        for name, tensor in model.state_dict().items()
        if name not in tensors or tensors[name].shape != tensor.shape
    ]
    if empty:
        raise ValueError(
            f'expected a checkpoint of the model of the config, got one that does not fill '
            f'{first_names(empty)}; give the config.py of its training'
        )


@contextmanager
def _draft(out: Path) -> Iterator[Path]:
    """Give a folder that becomes ``out`` if all goes well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        draft = Path(temporary, 'draft')
        draft.mkdir()
        yield draft
        if out.exists():
            out.rmdir()
        os.replace(draft, out)


def _with_classes(plain: dict[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Give a plain config the classes that the checkpoint was trained with, and return it."""
    trained = entry_at(dict(meta), KEPT)
    metainfo = plain['test_dataloader']['dataset']['metainfo']
    if isinstance(trained, Mapping):
        if trained.get('classes'):
            metainfo['classes'] = [*trained['classes']]
        if trained.get('palette'):
            metainfo['palette'] = [[*color] for color in trained['palette']]
    return plain


def _write_config(draft: Path, plain: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Write ``config.json``, and return the config as others will read it."""
    path = draft / CONFIG
    identity = dict(
        library_name=LIBRARY,
        library_version=__version__,
        architectures=[type(model).__name__],
        backbone=_sizes(model),
    )
    write_atomically(path, json.dumps({**identity, **plain}, indent=1))
    shutil.copymode(path, draft / WEIGHTS)  # safetensors writes for its user alone
    return read_plain_config(path).to_dict()


def _sizes(model: nn.Module) -> dict[str, Any]:
    """Return the identity of a backbone for ``config.json``."""
    backbone: Any = model.backbone
    if not isinstance(backbone, ConvNeXt):
        return dict(name=type(backbone).__name__)
    return dict(
        name='ConvNeXt',
        version=2 if backbone.use_grn else 1,
        depths=list(backbone.variant.depths),
        dims=list(backbone.variant.dims),
    )


def model_facts(model: nn.Module, plain: Mapping[str, Any]) -> ModelFacts:
    """Return what a card says of a network.

    Args:
        model: A detector or segmentor.
        plain: Its config, as :func:`~convnext_backbones.config.plain.read_plain_config` returns it.
    """
    toolbox, sizes = plain['default_scope'], _sizes(model)
    masks = any(
        key.startswith(('mask_head', 'panoptic'))
        for _, part in walk(plain['model'])
        for key in part
    )
    name, options, tags = sizes['name'], None, [sizes['name'].lower()]
    if 'dims' in sizes:
        version = ' V2' * (sizes['version'] == 2)
        depths, dims = (', '.join(map(str, sizes[key])) for key in ('depths', 'dims'))
        name = f'ConvNeXt{version} (blocks {depths}; channels {dims})'
        tags = ['convnext'] + ['convnextv2'] * (sizes['version'] == 2)
        backbone = plain['model']['backbone']
        options = {key: value for key, value in backbone.items() if key not in NOT_OPTIONS}
    kinds = dict(mmdet=['object-detection'], mmseg=['semantic-segmentation'])[toolbox]
    return ModelFacts(
        architecture=type(model).__name__,
        toolbox=toolbox,
        masks=masks and toolbox == 'mmdet',
        backbone=name,
        options=options,
        tags=[*tags, *kinds, *['instance-segmentation'] * (masks and toolbox == 'mmdet'), toolbox],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        normalization=_normalization(plain['model'].get('data_preprocessor') or {}),
    )


def _normalization(preprocessor: Mapping[str, Any]) -> str:
    if not preprocessor.get('mean'):
        return ''
    order = 'RGB' if preprocessor.get('bgr_to_rgb') else 'in which they are read'
    mean, std = (', '.join(map(str, preprocessor[key])) for key in ('mean', 'std'))
    return f'channels in the order {order}, mean {mean}, standard deviation {std}'


def _measured(
    checkpoint: str | os.PathLike, meta: Mapping[str, Any], path: str | os.PathLike | None
) -> Measured:
    """Return the metrics of a file, or else of the validation of the checkpoint's own training.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has anything but numbers by name.
    """
    if path is None:
        found = validation_of(checkpoint, meta)
        return Measured(found, 'in the validation that its training ran', 'validation')
    check_file(os.fspath(path), 'metrics of tools/test.py')
    try:
        metrics = json.loads(Path(path).read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(_no_metrics(path, str(error))) from error
    if not isinstance(metrics, dict) or not all(
        value is None or (isinstance(value, Real) and not isinstance(value, bool))
        for value in metrics.values()
    ):
        raise ValueError(_no_metrics(path, 'other values than numbers by name'))
    source = f'in {Path(path).name} of an evaluation, which the publisher gives for it'
    finite = {
        name: value if value is not None and math.isfinite(value) else None
        for name, value in metrics.items()
    }
    return Measured(finite, source, 'test')


def _no_metrics(path: str | os.PathLike, found: str) -> str:
    return f'expected metrics as tools/test.py writes them in {os.fspath(path)!r}, got {found}'


def _versions() -> dict[str, str]:
    """Return the versions of the packages that are installed, by name."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # of mmcv and mmcv-lite one
            continue
    return found
