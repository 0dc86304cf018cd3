"""Measure how fast the package is, beside the plain way."""
