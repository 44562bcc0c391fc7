"""Weights of any layout into a model, and out again.

Imports models, ops and io.
"""
