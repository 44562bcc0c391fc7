"""The fast form of trained networks on CPUs, and prediction of single images.

Imports config and the rows below.
"""
