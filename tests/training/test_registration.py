"""Importing the package registers every type that a config may name, without mmcv."""

from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from convnext_backbones.training.records import set_records
from convnext_backbones.training.resume import set_resumable

TYPES = dict(
    MODELS=[
        'AnyChannelsDetDataPreprocessor',
        'ConvNeXt',
        'ConvNeXtClassifier',
        'RoadmapClassifier',
        'RoadmapNet',
    ],
    WEIGHT_INITIALIZERS=['PretrainedConvNeXt'],
    OPTIM_WRAPPER_CONSTRUCTORS=['ConvNeXtLayerDecayConstructor'],
    HOOKS=[
        'FiniteNumbersHook',
        'InterruptionHook',
        'LearningRateRangeHook',
        'PositionHook',
        'RecordsHook',
        'ResumableRandomnessHook',
        'SafeCheckpointHook',
        'ValidationLossHook',
    ],
    LOOPS=['ResumableEpochBasedTrainLoop'],
    METRICS=['DumpPredictions', 'FastCocoMetric', 'PerClassIoUMetric'],
    MODEL_WRAPPERS=['CPUDistributedDataParallel'],
    TRANSFORMS=['CheckChannels', 'IgnoreLabels'],
    STRATEGIES=['BlockwiseFSDPStrategy'],
    VISBACKENDS=['LoggedScalarsBackend'],
)


def test_the_package_registers_all_of_its_types_and_needs_no_mmcv(run_python, tmp_path):
    code = f"""
        import sys

        for name in ('mmcv', 'mmdet', 'mmseg'):
            sys.modules[name] = None  # an import of it raises ImportError
        import convnext_backbones
        from mmengine import registry

        for name, types in {TYPES!r}.items():
            for kind in types:
                found = getattr(registry, name).get(kind)
                assert found and found.__module__.startswith('convnext_backbones'), (name, kind)
        # Nothing else is registered by the package: the list above is complete.
        named = {{kind for types in {TYPES!r}.values() for kind in types}}
        for part in vars(registry).values():
            if isinstance(part, registry.Registry):
                for kind, found in part.module_dict.items():
                    if found.__module__.startswith('convnext_backbones'):
                        assert kind in named, kind
        print('done')
        """
    assert run_python(code, tmp_path).strip() == 'done'


def test_a_saved_config_finds_the_types_by_itself(run_python, tmp_path):
    cfg = Config(
        dict(
            default_scope='mmengine',
            train_cfg=dict(by_epoch=True, max_epochs=1),
            default_hooks=dict(checkpoint=dict(type=CheckpointHook.__name__, interval=1)),
        )
    )
    set_resumable(cfg)
    set_records(cfg)
    assert cfg.custom_imports.imports == ['convnext_backbones.training']
    cfg.dump(tmp_path / 'saved.py')
    code = """
        from mmengine.config import Config
        from mmengine.registry import HOOKS, LOOPS, VISBACKENDS

        cfg = Config.fromfile('saved.py')
        hooks = [*cfg.custom_hooks, *cfg.default_hooks.values()]
        print(*(type(HOOKS.build(hook)).__name__ for hook in hooks))
        print(LOOPS.get(cfg.train_cfg.type).__name__)
        assert all(VISBACKENDS.get(backend.type) for backend in cfg.visualizer.vis_backends)
        """
    assert run_python(code, tmp_path).split() == [
        'LearningRateRangeHook',
        'RecordsHook',
        'SafeCheckpointHook',
        'ResumableEpochBasedTrainLoop',
    ]
