"""From a config to a Runner or a model on this machine.

Imports config, weights, reports and the rows below.
"""
