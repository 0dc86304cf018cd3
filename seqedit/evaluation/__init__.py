"""How well edits took, what they damaged, and how the model writes."""
