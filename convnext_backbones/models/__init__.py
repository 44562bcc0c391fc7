"""The networks: sizes, layers, ConvNeXt backbone and classifier.

Imports torch, mmengine and nothing else of this package.
"""
