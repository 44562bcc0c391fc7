"""Operators in plain torch and oneDNN.

Imports torch and nothing else of this package.
"""
