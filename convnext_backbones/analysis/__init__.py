"""What predictions get right and wrong, counted from plain arrays.

Imports io.
"""
