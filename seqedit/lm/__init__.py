"""The language-model side: architectures, hooks, tokens, contexts, keys, targets, statistics."""
