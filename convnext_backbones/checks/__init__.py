"""Find what is wrong with a config, its data and the machine before training.

Imports engine, inference and the rows below.
"""
