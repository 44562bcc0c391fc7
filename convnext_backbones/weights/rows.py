"""What is known of a published file of weights, and the mean and std that it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Licences.
APACHE = 'Apache-2.0'
# timm states Apache-2.0 for its copies; who trained them, another licence.
APACHE_META, APACHE_LAION = f'{APACHE} (authors: MIT)', f'{APACHE} (LAION: MIT)'
DINOV3_LICENCE, EUPE_LICENCE, NONCOMMERCIAL = (
    'DINOv3 License',
    'FAIR Noncommercial Research License',
    'CC-BY-NC-4.0',
)

# What files were trained on.
IN1K, IN12K, IN22K = 'ImageNet-1K', 'ImageNet-12K', 'ImageNet-22K'
FCMAE, LVD = 'FCMAE on ImageNet-1K', 'distilled on LVD-1689M'
LAION2B, LAION_A = 'CLIP on LAION-2B', 'CLIP on LAION-Aesthetic'
IN22K_1K = f'{IN22K}, then 1K'
AUGREG, SOUP = f'{LAION2B}, augmented', f'{LAION2B}, soup'
V1_SIZES = 'tiny small base large xlarge'
V2_SIZES = 'atto femto pico nano tiny base large huge'

# Mean and std of the pixels 0 to 255 of R, G and B, by name.
IMAGENET, CLIP, HALF = 'ImageNet', 'CLIP', '0.5'
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    IMAGENET: ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    CLIP: ((122.7709383, 116.7460125, 104.0937362), (68.5005327, 66.6321579, 70.3231631)),
    HALF: ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}
META_CDN = 'https://dl.fbaipublicfiles.com'
# Families whose final norm was trained on every position of the last map, not only on its mean.
DENSE_NORM = ('DINOv3', 'EUPE', 'VICRegL')
# Options of the classifier that a backbone does not have.
HEAD_OPTIONS = ('head_norm_first', 'head_hidden_size')


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights that somebody published, and what to know before using it.

    Attributes:
        url: Its address; None if it is in a repository of the Hugging Face hub, or has no public
            address.
        size: Its size in bytes; None if it is not known.
        sha256: Its digest in hexadecimal; None if it is not known.
        repo: The repository of the hub that has it, such as ``timm/convnext_tiny.in12k``.
        file: Its name in that repository, where the usual names are not tried; or the name under
            which it is looked for where it has no public address.
        family: ``V1``, ``V2``, ``DINOv3``, ``EUPE``, ``CLIP``, ``VICRegL`` or ``SparK``.
        origin: Who wrote the file: ``authors``, ``timm``, ``transformers``, ``open_clip``,
            ``keras``, ``mmpretrain`` or ``meta``.
        arch: Name of the size, mostly one of :data:`~convnext_backbones.VARIANTS`.
        options: Further keywords of the model, such as ``use_grn=True``.
        pretraining: The data and the method, in words.
        resolution: Side of the images of the last training, in pixels; None if it is not known.
        classes: Outputs of the head; 0 if there is none. CLIP's are the dimensions of its
            embedding.
        method: The detector or segmentor, for weights of a whole one.
        normalization: Name of mean and std in :data:`NORMALIZATIONS`.
        licence: Of the weights, by who publishes them; other claims in parentheses.
        gated: Whether its licence has to be accepted on the page of the repository.
        obstacle: Why it cannot be loaded here; empty if it can.
        copy: Name of a copy that anybody may download, where this file is not for everybody.
    """

    url: str | None = None
    size: int | None = None
    sha256: str | None = None
    repo: str | None = None
    file: str | None = None
    family: str = 'V1'
    origin: str = 'authors'
    arch: str = ''
    options: Mapping[str, Any] = field(default_factory=dict)
    pretraining: str = ''
    resolution: int | None = None
    classes: int = 0
    method: str = ''
    normalization: str = IMAGENET
    licence: str = 'MIT'
    gated: bool = False
    obstacle: str = ''
    copy: str = ''

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the pixels, 0 to 255, of R, G and B."""
        return NORMALIZATIONS[self.normalization][0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the pixels, 0 to 255, of R, G and B."""
        return NORMALIZATIONS[self.normalization][1]

    @property
    def dense_norm(self) -> bool:
        """Whether the final norm fits every position of the last map, as ``norm3`` does."""
        return self.family in DENSE_NORM

    def backbone_options(self) -> dict[str, Any]:
        """Return the keywords of the :class:`~convnext_backbones.ConvNeXt` that the file fits.

        Raises:
            ValueError: It fits none.
        """
        options = self._model_options()
        return {key: value for key, value in options.items() if key not in HEAD_OPTIONS}

    def classifier_options(self) -> dict[str, Any]:
        """Return the keywords of the :class:`~convnext_backbones.ConvNeXtClassifier` that it fits.

        Raises:
            ValueError: It fits none.
        """
        if self.method:
            raise ValueError(f'expected weights of a classifier, got those of {self.method}')
        return dict(self._model_options(), num_classes=self.classes)

    def _model_options(self) -> dict[str, Any]:
        if self.obstacle:
            raise ValueError(f'expected weights that fit a model of this project: {self.obstacle}')
        return dict(arch=self.arch, **self.options)

    def facts(self) -> dict[str, Any]:
        """Return what a list says of it, by column."""
        return {
            'family': self.family,
            'arch': self.arch,
            'pretraining': self.pretraining,
            'resolution': self.resolution,
            'classes': self.classes,
            'mean and std': self.normalization,
            'licence': self.licence + (', gated' if self.gated else ''),
            'loads': f'no: {self.obstacle}' if self.obstacle else 'yes',
        }


def names_of(pattern: str, sizes: str) -> list[tuple[str, str]]:
    """Return a size and a name for each of some sizes, with the size in the place of ``{}``."""
    return [(size, pattern.format(size)) for size in sizes.split()]
