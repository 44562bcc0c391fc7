"""Decide what a config for a folder of data says: head, sizes, batch, learning rate, length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import describe_head, head_settings
from ..config.heads import Head
from ..config.walk import type_name, walk
from ..data.found import Found
from ..data.tree import plural
from ..io.images import IMAGE_SUFFIXES
from ..io.statistics import channel_statistics
from ..models.variants import DEFAULT_VARIANT, Variant, resolve_variant
from ..weights.published import find_published
from ..weights.zoo import local_file
from .machine import Machine
from .sizes import (
    CPU_LIMITS,
    GPU_LIMITS,
    Limits,
    Sizes,
    detector_sizes,
    given_detector_sizes,
    given_segmentor_sizes,
    segmentor_sizes,
)

DEFAULT_WEIGHTS, FROM_SCRATCH = 'convnext_tiny_1k_224', 'none'
# Heads that suit what the data have, where the user names none.
MASK_HEAD, BOX_HEAD, MAP_HEAD = 'mask_rcnn', 'faster_rcnn', 'upernet'
# What a head becomes without weights, unless the user names a size: a small network learns sooner.
SMALL_HEADS = {MASK_HEAD: 'mask_rcnn_small', MAP_HEAD: 'upernet_small'}
FROM_SCRATCH_LR = 1e-3
# The share of the short side that crops have at most: images are reduced by this, and not padded.
PADDED = 0.75
# Images that a training sees, and bounds of its epochs. A training from pretrained weights needs
# few; one on a CPU has to end on the same day.
SEEN = {'pretrained on a GPU': 40_000, 'pretrained on a CPU': 4_000}
SEEN_FROM_SCRATCH = 16_000
LEAST_EPOCHS, MOST_EPOCHS = 12, 300
VALIDATIONS = 10  # in a training
RECIPE_BATCH = 16  # images per step that the recipes' learning rates are for


@dataclass(frozen=True)
class Wishes:
    """What a user asks for; None leaves the choice to the data.

    Attributes:
        head: A head by name.
        weights: Weights to start from, a published name, a file or a URL; ``none`` for none.
        arch: Size of the backbone.
        scale: Long and short side that images are scaled to, in pixels.
        epochs: Length of the training.
        batch: Images per step.
    """

    head: str | None = None
    weights: str | None = None
    arch: str | None = None
    scale: tuple[int, int] | None = None
    epochs: int | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Plan:
    """What a config says, with the reasons for its comments.

    ``channels`` are mean and std of images other than RGB or gray of 8 bits, which need them.
    """

    found: Found
    head: Head
    name: str
    weights: str | None
    arch: str | Mapping[str, Any] | None
    sizes: Sizes
    epochs: int
    epochs_reason: str
    batch: int
    batch_reason: str
    lr: float
    lr_reason: str
    channels: tuple[list[float], list[float]] | None = None

    @property
    def val_interval(self) -> int:
        """Epochs from one validation to the next."""
        return max(1, self.epochs // VALIDATIONS)

    @property
    def warm_up(self) -> int:
        """Iterations of the warm-up."""
        iterations = self.epochs * self.found.splits['train'].number // self.batch
        return max(1, min(500, iterations // 10))


def choose_head(found: Found, wishes: Wishes) -> tuple[str, Head]:
    """Return the name of a head, and what is known of it.

    Raises:
        FileNotFoundError: There are no such weights, or no such file.
        ValueError: There is no such head, or it needs something that the data do not have.
    """
    if wishes.weights not in (None, FROM_SCRATCH):
        local_file(wishes.weights)  # knows what can be found, also for a later download
    name = wishes.head
    if name is None:
        boxes = MASK_HEAD if found.has_masks else BOX_HEAD
        name = boxes if found.task == 'detection' else MAP_HEAD
    if wishes.weights == FROM_SCRATCH and wishes.arch is None:
        name = SMALL_HEADS.get(name, name)
    head = describe_head(name)
    have = 'label maps' if found.task == 'segmentation' else 'boxes'
    if head.task != found.task:
        kind = 'a segmentor' if found.task == 'segmentation' else 'a detector'
        other = MAP_HEAD if found.task == 'segmentation' else BOX_HEAD
        raise ValueError(
            f'expected {kind} for the {have} in {str(found.root)!r}, got the head {name!r}, which '
            f'is one for {head.task}; name another, such as --head {other}'
        )
    if head.needs_semantic_maps:
        raise ValueError(
            f'expected a head that {have} are enough for, got {name!r}, which needs label maps of '
            'the whole image beside them; name another, or write the config by hand'
        )
    if head.needs_masks and not found.has_masks:
        raise ValueError(
            f'expected masks for the head {name!r}, got data with boxes only in '
            f'{str(found.root)!r}; name a head for boxes, such as --head {BOX_HEAD}'
        )
    return name, head


def make_plan(found: Found, name: str, head: Head, wishes: Wishes, machine: Machine) -> Plan:
    """Decide everything.

    Args:
        found: The data, with parts to train on and to validate on.
        name: The head, as the config names it.
        head: What is known of it.
        wishes: What the user asks for.
        machine: What will train.

    Raises:
        ValueError: A wish cannot be met.
    """
    weights = wishes.weights or DEFAULT_WEIGHTS
    from_scratch = weights == FROM_SCRATCH
    variant = _variant(wishes.arch, weights, head)
    limits = GPU_LIMITS if machine.gpu else CPU_LIMITS
    sizes = _sizes(found, wishes.scale, limits, from_scratch)
    number = found.splits['train'].number
    batch, batch_reason = machine.batch_size(variant, sizes.pixels)
    if wishes.batch is not None:
        batch, batch_reason = wishes.batch, 'as asked for'
    elif number < batch:
        batch, batch_reason = number, 'all images'
    _refuse_batch(batch, found, name, head)
    seen = SEEN_FROM_SCRATCH if from_scratch else SEEN[f'pretrained on a {_device(machine)}']
    epochs = min(max(math.ceil(seen / number), LEAST_EPOCHS), MOST_EPOCHS)
    epochs_reason = f'{epochs * number:,} images, each of {number:,} many times'
    if wishes.epochs is not None:
        epochs, epochs_reason = wishes.epochs, 'as asked for'
    lr, lr_reason = FROM_SCRATCH_LR, 'from random weights'
    if not from_scratch:
        _, optim_wrapper = head_settings(name, wishes.arch, weights=weights)
        base = optim_wrapper['optimizer']['lr']
        lr = _rounded(base * math.sqrt(batch / RECIPE_BATCH))
        lr_reason = f'{base:g} at {RECIPE_BATCH} images per step, times the root of the ratio'
    return Plan(
        found=found,
        head=head,
        name=name,
        weights=None if from_scratch else weights,
        arch=wishes.arch,
        sizes=sizes,
        epochs=epochs,
        epochs_reason=epochs_reason,
        batch=batch,
        batch_reason=batch_reason,
        lr=lr,
        lr_reason=lr_reason,
        channels=_channels(found),
    )


def _channels(found: Found) -> tuple[list[float], list[float]] | None:
    """Return mean and std of images that are not loaded as RGB of 8 bits."""
    statistics = found.statistics
    if statistics.channels in (1, 3) and statistics.dtype == 'uint8':
        return None
    images = found.splits['train'].images.rglob('*')
    return channel_statistics(path for path in images if path.suffix.lower() in IMAGE_SUFFIXES)


def _sizes(
    found: Found, scale: tuple[int, int] | None, limits: Limits, from_scratch: bool
) -> Sizes:
    if found.task == 'detection':
        if scale is not None:
            return given_detector_sizes(scale, limits)
        return detector_sizes(found.statistics, limits)
    share = PADDED if from_scratch else 1.0
    if scale is not None:
        return given_segmentor_sizes(scale, limits, share)
    return segmentor_sizes(found.statistics, limits, share)


def _variant(arch: str | None, weights: str, head: Head) -> Variant:
    """Return the sizes of the backbone, or ConvNeXt-T's where only a file of weights knows them."""
    if arch is not None:
        return resolve_variant(arch)
    published = find_published(weights)
    if published is not None:
        return resolve_variant(published.backbone_options()['arch'])
    backbone = head.config.model.get('backbone') or {}
    keeps = weights == FROM_SCRATCH and backbone.get('type') == 'ConvNeXt'
    return resolve_variant(backbone['arch'] if keeps else DEFAULT_VARIANT)


def _refuse_batch(batch: int, found: Found, name: str, head: Head) -> None:
    """Raise ValueError if no step, or none with a batch norm, can be made of so many images."""
    number = found.splits['train'].number
    if batch > number:
        raise ValueError(
            f'expected at most {number} images per step, one for each image to train on, got '
            f'--batch {batch}; an epoch would have no step'
        )
    if batch == 1 and found.task == 'segmentation' and _has_batch_norms(head):
        raise ValueError(
            f'expected at least 2 images per step for the batch norms of {name!r}, got 1 with '
            f'{plural(number, "image")} to train on; annotate more, or give a larger --batch'
        )


def _has_batch_norms(head: Head) -> bool:
    """Whether a head has batch norms, which fail on one image where it is pooled to one value."""
    return any(
        'BN' in type_name(part) and not path.startswith('backbone')  # which is exchanged
        for path, part in walk(head.config.model)
    )


def _device(machine: Machine) -> str:
    return 'GPU' if machine.gpu else 'CPU'


def _rounded(rate: float) -> float:
    """Return a rate with two digits."""
    return float(f'{rate:.1e}')


def name_of(path: Path) -> str:
    """Return a name for what is written about a folder."""
    return path.resolve().name.replace('.', '_') or 'data'
