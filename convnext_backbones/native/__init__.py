"""Kernels in C for inference on CPUs, compiled by the user's compiler at their first use.

Imports io.
"""
