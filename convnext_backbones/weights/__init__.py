"""Load weights of any layout into a model, and convert them.

Imports models, ops and io.
"""
