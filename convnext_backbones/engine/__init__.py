"""From a config to a Runner or a model on this machine.

Imports config and the rows below.
"""
