"""The fast form of trained networks on CPUs, and prediction of single images.

Imports config, weights, reports and the rows below.
"""
