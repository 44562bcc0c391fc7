"""Configs: reading, flags, classes, the plain form, the one walker, and backbones exchanged.

Imports weights, reports, data and the row below.
"""

from .exchange import with_convnext
from .heads import Head, describe_head, head_settings

__all__ = ['Head', 'describe_head', 'head_settings', 'with_convnext']
