"""Measuring a model: how well edits took, what else they changed, and how the model writes."""
