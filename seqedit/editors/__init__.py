"""The kinds of editing methods: what one is made of, and how it writes the requests of a round into a model."""
