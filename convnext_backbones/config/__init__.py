"""Configs: reading, flags, classes, the plain form, and the one walker.

Imports models, ops and io.
"""
