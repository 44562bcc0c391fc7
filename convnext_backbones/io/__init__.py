"""Files in and out: checkpoints, downloads, images, atomic writes, changes to mmengine.

Imports nothing else of this package.
"""
