"""Mathematics on tensors: the solver, subspaces, moments, restraints and diagnostics.

Nothing here knows of transformers or files.
"""
