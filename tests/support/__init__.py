"""Helpers of the tests: miniature configs and data, independent models, recording hooks."""
