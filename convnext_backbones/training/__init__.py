"""Hooks, layer decay, resuming, sharding and the flags of a training.

Imports engine, inference and the rows below.
"""

# Saved configs name this package in `custom_imports`: importing it registers all their types.
from ..engine import channels, hardware, label_transforms  # noqa: F401
from . import (  # noqa: F401
    finite_numbers,
    interruption,
    layer_decay,
    logged_scalars,
    records,
    resume,
    sharding,
    validation_loss,
)
