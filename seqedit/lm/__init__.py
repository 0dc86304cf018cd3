"""Language models: what they are made of, what they read, and how they are changed."""
