"""Configs: reading, flags, classes, the plain form, and the one walker.

Imports weights, reports, data and the row below.
"""
