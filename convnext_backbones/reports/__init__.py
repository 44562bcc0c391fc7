"""Tables, curves and the description of a run's environment.

Imports models, ops and io.
"""
