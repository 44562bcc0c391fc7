"""Configs written from a folder of data.

Imports engine, inference and the rows below.
"""
