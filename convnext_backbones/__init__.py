"""ConvNeXt backbones for dense prediction on the OpenMMLab stack.

Importing this package registers ``type='ConvNeXt'`` in mmengine's root registry, where mmdet,
mmseg and every other child registry find it, and the other types that a config may name: hooks,
metrics, weight initializer. It needs torch, mmengine and safetensors, and no mmcv.
"""

from typing import NoReturn

from .version import __version__

__all__ = [
    'PUBLISHED',
    'VARIANTS',
    'ConvNeXt',
    'ConvNeXtClassifier',
    'ConvNeXtLayerDecayConstructor',
    'LearningRateRangeHook',
    'LoadReport',
    'PretrainedConvNeXt',
    'PublishedWeights',
    'RoadmapClassifier',
    'RoadmapNet',
    'Variant',
    '__version__',
    'load_weights',
    'optimize_for_inference',
]

try:
    import mmengine  # noqa: F401
    import safetensors  # noqa: F401
    import torch  # noqa: F401
except (ImportError, OSError) as error:
    # `python -m convnext_backbones.doctor` imports this package first, and has to run exactly
    # where one of these is missing or broken. Everybody else is told at the first use.
    _cause = error

    def __getattr__(name: str) -> NoReturn:
        if name not in __all__:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        raise ImportError(
            f'convnext_backbones.{name} needs torch, mmengine and safetensors, and one cannot be '
            f'imported ({_cause}); run "python -m convnext_backbones.doctor" to see what to install'
        ) from _cause

else:
    from . import training  # noqa: F401
    from .evaluation import metrics, predictions  # noqa: F401
    from .inference.optimize import optimize_for_inference
    from .io.mmengine_patches import allow_mmengine_types
    from .models.convnext import ConvNeXt, ConvNeXtClassifier
    from .models.roadmap import RoadmapClassifier, RoadmapNet
    from .models.variants import VARIANTS, Variant
    from .ops.finder import install
    from .training.layer_decay import ConvNeXtLayerDecayConstructor, LearningRateRangeHook
    from .weights.loading import PretrainedConvNeXt, load_weights
    from .weights.report import LoadReport
    from .weights.zoo import PUBLISHED, PublishedWeights

    # Inferencers and runners of mmengine read checkpoints with torch.load, which refuses
    # mmengine's own log buffers unless they are allowed by name.
    allow_mmengine_types()
    # From here on this process finds mmcv's operators, with or without a compiled mmcv.
    install()
