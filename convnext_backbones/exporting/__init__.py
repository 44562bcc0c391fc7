"""Trained models in formats that run without OpenMMLab: ONNX, OpenVINO, torch.export.

Imports engine, inference and the rows below.
"""
