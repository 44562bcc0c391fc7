"""Folders of data: recognized, converted, and split.

Imports models, ops and io.
"""
