"""Tensors in, tensors out: the solver, subspaces, moments and diagnostics; knows nothing of transformers."""
