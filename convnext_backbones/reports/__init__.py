"""Tables, curves, pages, and the description of a run's environment.

Imports models, ops, analysis and io.
"""
