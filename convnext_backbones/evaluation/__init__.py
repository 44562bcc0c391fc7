"""Metrics, kept predictions and their files.

Imports engine, inference and the rows below.
"""
