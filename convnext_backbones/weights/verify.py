"""Load weights, run them on an image, and compare with the implementation that they come from."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..models.convnext import ConvNeXt, ConvNeXtClassifier
from .architecture import FINAL_NORM, read_options
from .explain import CLIP_PREFIX
from .loading import load_weights
from .matching import only_network
from .names import in_our_shape
from .origins import origin_of
from .published import find_published
from .reading import read_contents
from .report import LoadReport
from .rows import CLIP, HEAD_OPTIONS, IMAGENET, NORMALIZATIONS
from .subject import FEATURES, LOGITS, MAP, Picture, Subject, difference, last_output
from .zoo import weights_file

# The largest difference that passes, as a fraction of the largest value. Rounding in fp32 gives
# less than half of it in the deepest networks.
TOLERANCE = 1e-5
RESOLUTION = 224  # where none is known
# Up to this side the images of a test are the middle of a larger one, by the ratio of ImageNet's
# tests; larger ones are whole.
WHOLE, RATIO = 384, 0.875
IMAGENET_CLASSES = 1000
EQUAL, DIFFERENT, FAILED, NOT_COMPARED = 'equal', 'different', 'failed', 'not compared'


@dataclass
class Verification:
    """What came of weights.

    Attributes:
        source: The name, file or URL.
        file: The local file.
        layout: The layout of its names.
        options: The keywords of our model.
        loaded: Number of tensors that were loaded.
        image: Which image, and how it was prepared.
        classes: The best classes: number, name if it is known, and probability.
        norm: Of the pooled features or the embedding, where there are no classes.
        remarks: Sentences on the weights and on the comparison.
        origin: The implementation that was compared with, and its version; empty if none was.
        differences: The largest difference of each output, as a fraction of the largest value.
        verdict: ``equal``, ``different``, ``failed`` (it does not read the file, or gives outputs
            of other shapes) or ``not compared``.
        tolerance: The largest difference that is called equal.
    """

    source: str
    file: str
    layout: str
    options: Mapping[str, Any]
    loaded: int
    image: str
    classes: list[dict[str, Any]] = field(default_factory=list)
    norm: float | None = None
    remarks: list[str] = field(default_factory=list)
    origin: str = ''
    differences: dict[str, float] = field(default_factory=dict)
    verdict: str = NOT_COMPARED
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the weights."""
        return self.verdict in (EQUAL, NOT_COMPARED)

    def __str__(self) -> str:
        options = ', '.join(f'{key}={value!r}' for key, value in self.options.items())
        lines = [
            f'file: {self.file} ({self.layout} layout), {self.loaded} tensors loaded',
            f'network: {options}',
            f'image: {self.image}',
        ]
        if self.classes:
            lines.append('best classes:')
        for row in self.classes:
            lines.append(f'  {row["probability"]:6.1%}  {row["class"]:5d}  {row["name"]}'.rstrip())
        if self.norm is not None:
            lines.append(f'norm of the features: {self.norm:.4f}')
        if self.differences:
            values = ', '.join(f'{what} {value:.1e}' for what, value in self.differences.items())
            lines.append(
                f'{self.verdict} to {self.origin} within {self.tolerance:g} of the largest value: '
                f'{values}'
                if self.verdict == EQUAL
                else f'{self.verdict} from {self.origin} by more than {self.tolerance:g} of the '
                f'largest value: {values}'
            )
        return '\n'.join([*lines, *(f'note: {remark}' for remark in self.remarks)])


def verify(source: str, image: str | os.PathLike | None = None, top: int = 5) -> Verification:
    """Load weights strictly, and compare the outputs with those of the project that wrote them.

    Everything is computed in fp32 on the CPU, from one image of the resolution, mean and std of the
    weights. An image file is turned upright and converted to RGB. Its middle square is resized with
    bicubic interpolation, to the resolution from 384 pixels on, and to 8/7 of it below, as tests on
    ImageNet do, whose outer part is then cut off. Without a file, a picture is generated, the same
    every time.

    Args:
        source: As for :func:`~convnext_backbones.load_weights`. Of weights that are not published
            the network is found from the tensors, and ImageNet's mean and std at 224 pixels are
            taken, CLIP's for files of open_clip.
        image: A file that Pillow reads.
        top: Number of classes to name.

    Raises:
        FileNotFoundError: There is no such name or file.
        ValueError: The weights cannot be fetched or do not load, or the image cannot be read.
    """
    published = find_published(source)
    if published is not None:
        published.classifier_options()
    photo = None if image is None else open_image(image)  # errors are better before a download
    # Other projects print to the standard output, and so does mmengine's logger.
    with contextlib.redirect_stdout(sys.stderr):
        path = weights_file(source)
        subject, report = load_subject(path, source)
        side, normalization = _preprocessing(subject)
        picture = make_picture(photo, side, *NORMALIZATIONS[normalization])
        how = 'generated' if image is None else os.fspath(image)
        result = Verification(
            source=source,
            file=str(path),
            layout=subject.layout,
            options=subject.options,
            loaded=len(report.loaded),
            image=f'{how}, {side} x {side}, mean and std of {normalization}',
            remarks=[*report.notes],
        )
        outputs = run_ours(subject, picture)
        describe_outputs(result, subject, outputs, top)
        compare(result, subject, picture, outputs)
    return result


# --- ours -------------------------------------------------------------------------------------


def load_subject(path: Path, source: str) -> tuple[Subject, LoadReport]:
    """Return the weights of a file in our model, and the report on every tensor.

    Args:
        path: The file.
        source: The name under which it was asked for.

    Raises:
        ValueError: They do not load.
    """
    contents = read_contents(path)
    tensors = contents.tensors
    found = only_network(tensors, str(path), None)
    network = {name: in_our_shape(name, tensors[key]) for name, key in found.names.items()}
    published = find_published(source)
    options = read_options(found, network) if published is None else published.classifier_options()
    if options.get('in_chans', 3) != 3:
        raise ValueError(
            f'expected weights for images of R, G and B, got some for {options["in_chans"]} '
            'channels, which are in no image file'
        )
    model: ConvNeXt | ConvNeXtClassifier
    if FINAL_NORM in found.names:
        model = ConvNeXtClassifier(**options)
    else:
        trunk = {key: options[key] for key in options if key not in (*HEAD_OPTIONS, 'num_classes')}
        model = ConvNeXt(**trunk)
    with quiet_logs():  # the notes are among the results
        report = load_weights(model.eval(), path)
    pointwise = found.names['stages.0.0.pwconv1.weight']
    subject = Subject(
        path=path,
        layout=contents.form or found.layout.name,
        prefix=found.prefix,
        options=options,
        model=model,
        convolutions=tensors[pointwise].dim() == 4,
        whole=bool(found.others) and published is None,
        published=published,
    )
    return subject, report


def run_ours(subject: Subject, picture: Picture) -> dict[str, Tensor]:
    """Return what our model computes, by what it is."""
    model = subject.model
    with torch.inference_mode(), last_output([*model.stages[-1].children()][-1]) as maps:
        output = model(picture.normalized)
    return {MAP: maps[0]} | ({subject.output: output} if subject.has_norm else {})


def describe_outputs(
    result: Verification, subject: Subject, outputs: Mapping[str, Tensor], top: int
) -> None:
    """Fill in the best classes, or what there is instead."""
    if LOGITS in outputs and not _is_embedding(subject):
        names, where = class_names(subject.classes)
        chances = outputs[LOGITS][0].softmax(0)
        best = chances.topk(min(top, len(chances)))
        for chance, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            name = names[index] if names else ''
            result.classes.append({'class': index, 'name': name, 'probability': chance})
        if where:
            result.remarks.append(where)
        return
    features = outputs.get(LOGITS, outputs.get(FEATURES, outputs[MAP].mean((2, 3))))
    result.norm = float(features.norm())
    if LOGITS in outputs:
        what = f'the head gives an embedding of CLIP, of {subject.classes} numbers, not classes'
    elif subject.has_norm:
        what = 'the weights have no head, and so no classes'
    else:
        what = 'the weights have neither a final norm nor a head, and so no classes'
    result.remarks.append(what)


def _is_embedding(subject: Subject) -> bool:
    """Whether the head of some weights is the projection of CLIP."""
    published = subject.published
    if published is None:
        return _is_clip(subject)
    return published.family == 'CLIP' and 'ImageNet' not in published.pretraining


def _is_clip(subject: Subject) -> bool:
    return f'.{subject.prefix}'.endswith(f'.{CLIP_PREFIX}')


def class_names(classes: int) -> tuple[list[str], str]:
    """Return the names of ImageNet's 1000 classes, and a sentence on where they are from.

    mmpretrain has them, too, but imports torchvision before it gives them.

    Args:
        classes: Number of classes; there are no names for other numbers.
    """
    if classes != IMAGENET_CLASSES:
        return [], ''
    with contextlib.suppress(ImportError):
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        names = [info.index_to_description(i) for i in range(classes)]
        return names, 'the names of the classes are ImageNet-1K, from timm'
    with contextlib.suppress(ImportError):
        from torchvision.models import ConvNeXt_Tiny_Weights

        names = list(ConvNeXt_Tiny_Weights.DEFAULT.meta['categories'])
        return names, 'the names of the classes are ImageNet-1K, from torchvision'
    return [], "pip install timm adds the names of ImageNet's classes"


# --- the image --------------------------------------------------------------------------------


def _preprocessing(subject: Subject) -> tuple[int, str]:
    """Return the resolution, and the name of mean and std."""
    published = subject.published
    if published is None:
        return RESOLUTION, CLIP if _is_clip(subject) else IMAGENET
    return published.resolution or RESOLUTION, published.normalization


def make_picture(
    image: Image.Image | None, side: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Picture:
    """Return what is computed with.

    Args:
        image: In RGB; None for a generated one.
        side: Height and width.
        mean: Of R, G and B, 0 to 255.
        std: Of R, G and B, 0 to 255.
    """
    pixels = generate(side) if image is None else middle(image, side)
    values = torch.from_numpy(pixels)[None]  # (1, H, W, 3)
    normalized = (values.float() - torch.tensor(mean)) / torch.tensor(std)
    return Picture(values, normalized.permute(0, 3, 1, 2).contiguous())


def open_image(file: str | os.PathLike) -> Image.Image:
    """Return an image, upright and in RGB.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not an image.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f'expected an image file, found nothing at {os.fspath(file)!r}')
    try:
        with Image.open(file) as opened:
            return ImageOps.exif_transpose(opened).convert('RGB')
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f'cannot read the image {os.fspath(file)!r}: {error}') from error


def middle(image: Image.Image, side: int) -> np.ndarray:
    """Return the middle of an image, see :func:`verify`, of shape (side, side, 3)."""
    # Only the middle square is resized: a long and thin image would become a huge one.
    square = ImageOps.fit(image, (min(image.size),) * 2)
    short = side if side >= WHOLE else round(side / RATIO)
    square = square.resize((short, short), Image.Resampling.BICUBIC)
    edge = (short - side) // 2
    return np.array(square)[edge : edge + side, edge : edge + side]


def generate(side: int) -> np.ndarray:
    """Return a picture with slopes, waves and edges."""
    y, x = np.mgrid[0:side, 0:side] / side
    disc = ((x - 0.45) ** 2 + (y - 0.55) ** 2 < 0.09).astype(float)
    waves = 0.5 + 0.5 * np.sin(40 * x * y + 6 * x)
    channels = (0.7 * x + 0.3 * disc, 0.6 * waves + 0.4 * disc, 0.5 * (1 - y) + 0.5 * waves * disc)
    return (255 * np.stack(channels, axis=-1)).round().astype(np.uint8)


# --- the comparison -------------------------------------------------------------------------------


def compare(
    result: Verification, subject: Subject, picture: Picture, outputs: Mapping[str, Tensor]
) -> None:
    """Fill in the origin, the differences and the verdict."""
    origin = None if subject.whole else origin_of(subject)
    if origin is None:
        result.remarks.append(
            'not compared: no project on PyPI is known to read this file for itself'
        )
        return
    missing = f'not compared: {origin.module} is not installed; pip install {origin.package}'
    if not origin.installed():
        result.remarks.append(missing)
        return
    result.origin = origin.label()
    try:
        with quiet_logs():
            theirs = origin.run(subject, picture)
        result.differences = {
            what: difference(outputs[what], tensor) for what, tensor in theirs.tensors.items()
        }
    except ImportError as error:
        result.remarks.append(f'not compared: {origin.module} cannot be imported: {error}')
        return
    except Exception as error:  # other projects raise what they like
        result.verdict = FAILED
        reason = str(error).strip().partition('\n')[0] or type(error).__name__
        result.remarks.append(f'the comparison with {result.origin} failed: {reason}')
        return
    equal = all(value <= result.tolerance for value in result.differences.values())
    result.verdict = EQUAL if equal else DIFFERENT
    result.remarks += theirs.notes


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """Keep logs away from the results; errors pass."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
