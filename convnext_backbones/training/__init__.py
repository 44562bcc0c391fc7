"""What a training adds to mmengine: flags, hooks, layer decay, resuming, sharding.

Imports engine, inference and the rows below; saved configs import this package by name.
"""

# A config that a training leaves behind names this package in `custom_imports`: whatever such a
# config names by `type` is registered here.
from . import (  # noqa: F401
    finite_numbers,
    interruption,
    layer_decay,
    records,
    resume,
    sharding,
    validation_loss,
)
