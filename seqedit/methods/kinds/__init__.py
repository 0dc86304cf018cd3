"""Kinds of methods: what a method of the kind is made of, and how it writes a round."""
