"""Timing beside other implementations, and the cost of models.

Imports engine, inference and the rows below.
"""
