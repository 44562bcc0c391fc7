"""Generate sample data for a first training run: handwritten digits on photographs.

Nothing is downloaded: the digits (8 x 8 scans) and the two photographs ship with scikit-learn.
Every scene is written in both layouts that users have:

    OUT/coco/annotations/instances_{train,val}.json   boxes and polygons, 10 categories
    OUT/coco/{train,val}/*.jpg
    OUT/ade20k/images/{training,validation}/*.jpg
    OUT/ade20k/annotations/{training,validation}/*.png   label maps, see below

Label maps follow ADE20K: 0 is "unlabeled", here the blurred rim of a digit; 1 is the background
and 2 to 11 are the digits. The same seed gives the same files; no scan is used in both splits.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

DIGITS = tuple('0123456789')
UNLABELED, BACKGROUND, FIRST_DIGIT = 0, 1, 2
VALIDATION_SHARE = 0.2  # of the digits that scikit-learn ships
DIGITS_PER_SCENE = (2, 5)
DIGIT_HEIGHT = (0.25, 0.42)  # as a share of the scene
MAX_OVERLAP = 0.1  # of the smaller of two boxes
# Digits are brighter than their background, so that a network learns them in minutes.
BACKGROUND_BRIGHTNESS, INK_RANGE = 0.5, (128, 255)
SHARPNESS = 1.8
OPAQUE, TRANSPARENT = 0.5, 0.15  # a pixel above the first is digit, below the second background
MIN_AREA = 16  # pixels; smaller pieces of a digit get no outline
ATTEMPTS = 50  # to place a digit where it hardly overlaps others
ENLARGE = 4
MANIFEST = 'sample_data.json'


@dataclass(frozen=True)
class Options:
    """Settings that determine the generated files; stored beside them."""

    train: int
    val: int
    size: int
    seed: int


@dataclass
class Scene:
    """A generated image with its annotations.

    Attributes:
        image: (size, size, 3), uint8, BGR.
        labels: (size, size), uint8, ADE20K-style label map.
        instances: For each digit its class 0..9 and its mask, (size, size), bool.
    """

    image: np.ndarray
    labels: np.ndarray
    instances: list[tuple[int, np.ndarray]]


class SceneMaker:
    """Composes scenes from the digits of one split.

    Args:
        images: (N, 8, 8) digits, values 0 to 16.
        targets: (N,) their classes.
        photos: Photographs, (H, W, 3), uint8, BGR.
        size: Side of a scene in pixels.
        rng: The only source of randomness.
    """

    def __init__(
        self,
        images: np.ndarray,
        targets: np.ndarray,
        photos: list[np.ndarray],
        size: int,
        rng: np.random.Generator,
    ) -> None:
        self.images = images
        self.by_class = [np.flatnonzero(targets == digit) for digit in range(len(DIGITS))]
        self.photos = photos
        self.size = size
        self.rng = rng

    def make(self) -> Scene:
        """Return a new scene."""
        image = self._background().astype(np.float32) * BACKGROUND_BRIGHTNESS
        labels = np.full((self.size, self.size), BACKGROUND, np.uint8)
        instances: list[tuple[int, np.ndarray]] = []
        boxes: list[tuple[int, int, int, int]] = []
        for _ in range(self.rng.integers(DIGITS_PER_SCENE[0], DIGITS_PER_SCENE[1] + 1)):
            digit = int(self.rng.integers(len(DIGITS)))
            ink = self._ink(digit)
            place = self._place(ink.shape, boxes)
            if place is None:
                continue
            x, y = place
            height, width = ink.shape
            boxes.append((x, y, x + width, y + height))
            window = (slice(y, y + height), slice(x, x + width))
            color = self.rng.uniform(*INK_RANGE, 3).astype(np.float32)
            image[window] += (color - image[window]) * ink[..., None]
            # The rim is unlabeled, except over a neighboring digit.
            rim = (ink > TRANSPARENT) & (labels[window] == BACKGROUND)
            labels[window][rim] = UNLABELED
            labels[window][ink > OPAQUE] = FIRST_DIGIT + digit
            mask = np.zeros(labels.shape, bool)
            mask[window] = ink > OPAQUE
            for _, other in instances:
                other &= ~mask
            instances.append((digit, mask))
        return Scene(image.round().astype(np.uint8), labels, instances)

    def _background(self) -> np.ndarray:
        """Return a random crop of a photograph, (size, size, 3)."""
        photo = self.photos[self.rng.integers(len(self.photos))]
        side = int(self.rng.integers(self.size // 2, min(photo.shape[:2]) + 1))
        y = int(self.rng.integers(photo.shape[0] - side + 1))
        x = int(self.rng.integers(photo.shape[1] - side + 1))
        crop = cv2.resize(photo[y : y + side, x : x + side], (self.size, self.size))
        return crop[:, ::-1] if self.rng.random() < 0.5 else crop

    def _ink(self, digit: int) -> np.ndarray:
        """Return the opacity of a random digit of the given class, scaled; (h, w), 0 to 1."""
        scan = self.images[self.rng.choice(self.by_class[digit])] / 16.0
        columns = np.flatnonzero(scan.any(0))
        scan = scan[:, columns[0] : columns[-1] + 1]
        height = self.size * self.rng.uniform(*DIGIT_HEIGHT)
        width = height * scan.shape[1] / scan.shape[0] * self.rng.uniform(0.85, 1.15)
        scan = np.pad(scan, 1).astype(np.float32)
        scale = (len(scan) / (len(scan) - 2), scan.shape[1] / (scan.shape[1] - 2))
        target = (round(width * scale[1]), round(height * scale[0]))
        ink = cv2.resize(scan, target, interpolation=cv2.INTER_CUBIC)
        # Enlarging an 8 x 8 scan blurs it; a steeper ramp restores the edges of the strokes.
        return np.clip(SHARPNESS * (ink - 0.5) + 0.5, 0, 1)

    def _place(
        self, shape: tuple[int, ...], boxes: list[tuple[int, int, int, int]]
    ) -> tuple[int, int] | None:
        """Return the top left corner of a free place, x and y; None if none was found."""
        for _ in range(ATTEMPTS):
            x = int(self.rng.integers(self.size - shape[1] + 1))
            y = int(self.rng.integers(self.size - shape[0] + 1))
            box = (x, y, x + shape[1], y + shape[0])
            if all(_overlap(box, other) <= MAX_OVERLAP for other in boxes):
                return x, y
        return None


def _overlap(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Return the shared area as a fraction of the smaller box; boxes are x0, y0, x1, y1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / smaller


def coco_annotation(mask: np.ndarray) -> dict | None:
    """Return box, area and polygons of a boolean mask in COCO's form; None for a mask too small.

    Polygons have no holes, so the inside of a zero counts as digit, also in the area.
    """
    # cv2 traces pixel centers and COCO's polygons follow pixel edges. On the enlarged mask the two
    # differ by only an eighth of a pixel.
    fine = cv2.resize(
        mask.astype(np.uint8), None, fx=ENLARGE, fy=ENLARGE, interpolation=cv2.INTER_NEAREST
    )
    contours, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contours = [c for c in contours if cv2.contourArea(c) >= MIN_AREA * ENLARGE**2]
    if not contours:
        return None
    outline = np.zeros_like(fine)
    cv2.drawContours(outline, contours, -1, 1, thickness=cv2.FILLED)
    filled = outline[::ENLARGE, ::ENLARGE]
    return dict(
        bbox=list(cv2.boundingRect(filled)),
        area=int(filled.sum()),
        segmentation=[((c.reshape(-1) + 0.5) / ENLARGE).tolist() for c in contours],
        iscrowd=0,
    )


def write_split(
    maker: SceneMaker, count: int, coco: Path, ade: Path, coco_name: str, ade_name: str
) -> None:
    """Write ``count`` scenes in both layouts, into a folder for each."""
    images: list[dict] = []
    annotations: list[dict] = []
    folders = coco / coco_name, ade / 'images' / ade_name, ade / 'annotations' / ade_name
    for folder in folders:
        folder.mkdir(parents=True)
    for image_id in range(1, count + 1):
        scene = maker.make()
        stem = f'{image_id:06d}'
        for folder in folders[:2]:
            cv2.imwrite(str(folder / f'{stem}.jpg'), scene.image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        cv2.imwrite(str(folders[2] / f'{stem}.png'), scene.labels)
        images.append(
            dict(id=image_id, file_name=f'{stem}.jpg', width=maker.size, height=maker.size)
        )
        for digit, mask in scene.instances:
            annotation = coco_annotation(mask)
            if annotation is not None:
                ids = dict(id=len(annotations) + 1, image_id=image_id, category_id=digit + 1)
                annotations.append(ids | annotation)
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(DIGITS)]
    path = coco / 'annotations' / f'instances_{coco_name}.json'
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))


def make_sample_data(out: Path, options: Options) -> None:
    """Generate everything in a temporary folder beside ``out``, then rename it.

    Raises:
        ValueError: ``out`` exists and is not empty, or the options are out of range.
    """
    from sklearn.datasets import load_digits, load_sample_images

    if options.train < 1 or options.val < 1 or not 64 <= options.size <= 800:
        raise ValueError(
            f'expected at least 1 scene per split and scenes of 64 to 800 pixels, got {options}'
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f'expected an empty or new folder, got {out}; remove it or choose another')
    digits = load_digits()
    photos = [np.ascontiguousarray(photo[..., ::-1]) for photo in load_sample_images().images]
    order = np.random.default_rng(options.seed).permutation(len(digits.images))
    held_out = round(VALIDATION_SHARE * len(order))
    splits = [
        ('train', 'training', options.train, order[held_out:]),
        ('val', 'validation', options.val, order[:held_out]),
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f'.{out.name}-', dir=out.parent))
    try:
        for number, (coco_name, ade_name, count, own) in enumerate(splits):
            maker = SceneMaker(
                digits.images[own],
                digits.target[own],
                photos,
                options.size,
                np.random.default_rng((options.seed, number)),
            )
            write_split(maker, count, temporary / 'coco', temporary / 'ade20k', coco_name, ade_name)
        (temporary / MANIFEST).write_text(json.dumps(asdict(options), indent=2))
        temporary.chmod(0o755)
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('out', type=Path, metavar='OUT', help='folder to create')
    parser.add_argument('--train', type=int, default=1000, help='training scenes')
    parser.add_argument('--val', type=int, default=100, help='validation scenes')
    parser.add_argument('--size', type=int, default=160, help='side of a scene in pixels')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    options = Options(args.train, args.val, args.size, args.seed)
    manifest = args.out / MANIFEST
    if manifest.is_file() and json.loads(manifest.read_text()) == asdict(options):
        print(f'{args.out} holds this sample data already')
        return 0
    try:
        make_sample_data(args.out, options)
    except ValueError as error:
        print(f'make_sample_data: {error}', file=sys.stderr)
        return 2
    print(f'{options.train} training and {options.val} validation scenes in {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
