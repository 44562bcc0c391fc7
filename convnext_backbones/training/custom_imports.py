"""The import that a saved config needs to find the types of this package."""

from __future__ import annotations

from mmengine.config import Config

# Written into saved configs and therefore stable: the modules below it may be renamed or split.
REGISTERING_PACKAGE = 'convnext_backbones.training'


def set_custom_imports(cfg: Config) -> None:
    """Make a saved ``cfg`` import this package, so that other tools resolve its types.

    Args:
        cfg: Changed in place; its own ``custom_imports`` are kept.
    """
    imports = cfg.get('custom_imports') or dict(imports=[], allow_failed_imports=False)
    names = imports['imports']
    names = [names] if isinstance(names, str) else list(names)
    if REGISTERING_PACKAGE not in names:
        cfg.custom_imports = dict(imports, imports=[*names, REGISTERING_PACKAGE])
