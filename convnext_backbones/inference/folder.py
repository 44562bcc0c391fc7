"""Predict all images of a folder, also if some of them fail."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from ..io.files import write_atomically
from ..io.images import IMAGE_SUFFIXES, read_image
from . import tiled
from .predictor import Predictor
from .tiles import Tiling


def list_images(source: str | Path) -> list[Path]:
    """Return the image itself, or the images of a folder sorted by name.

    Raises:
        FileNotFoundError: There is nothing at ``source``, or no image in the folder.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    images = sorted(p for p in path.glob('*') if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not images:
        raise FileNotFoundError(
            f'expected an image, or a folder with images ({", ".join(IMAGE_SUFFIXES)}), found none '
            f'at {str(source)!r}'
        )
    return images


def predict_images(
    predictor: Predictor, images: Sequence[Path], tiling: Tiling | None = None
) -> dict[Path, str]:
    """Predict, record and draw each image; write ``predictions.json`` also if interrupted.

    Args:
        predictor: Its ``out`` is the folder to write to.
        images: Files, each with a name of its own.
        tiling: How each image is cut; None predicts images as a whole.

    Returns:
        The reason for each image that failed, in one line.
    """
    results: dict[str, Any] = {}
    failures: dict[Path, str] = {}
    try:
        alone = len(images) == 1 or tiling is not None  # the tiles of an image have their own bar
        for path in track(images, description='predicting', disable=alone):
            try:
                if tiling is None:
                    image = read_image(path, **predictor.reading)
                    sample = predictor.predict(image)
                    results[path.name] = predictor.record(sample, path.name)
                    predictor.draw(sample, image, path.name)
                else:
                    results[path.name], drawing = tiled.predict_file(predictor, path, tiling)
                    tiled.draw(predictor, drawing, path.name)
            except Exception as error:  # whatever it is, the other images are not affected
                failures[path] = _reason(error, path)
    finally:
        reasons = {path.name: reason for path, reason in failures.items()}
        report = dict(classes=predictor.classes, images=results, failures=reasons)
        write_atomically(predictor.out / 'predictions.json', json.dumps(report, indent=1))
        print(f'{len(results)} of {len(images)} images predicted; results are in {predictor.out}')
    return failures


def _reason(error: Exception, path: Path) -> str:
    """Return the message of ``error`` in one line, without the name of the image."""
    text = ' '.join(str(error).split()).removeprefix(f'cannot read the image {str(path)!r}: ')
    return text if isinstance(error, (ValueError, OSError)) else f'{type(error).__name__}: {text}'
