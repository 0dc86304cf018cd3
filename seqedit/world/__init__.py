"""The fictional world and the training of the model that knows it; no editing."""
