"""Which layers are edited in a model for which nothing was published or tuned."""

DEPTH = 0.3
"""Where the last edited layer lies, as a share of all layers.

Published settings of MEMIT and AlphaEdit put it at 0.35 (GPT-2 XL), 0.29 (GPT-J, Qwen2.5-7B), 0.25
(Llama 3 8B), 0.33 (Pythia-160M), 0.38 (GPT-2 medium, Pythia-410M, Llama 3.2 1B), 0.31 (Gemma 2 2B)
and 0.23 (TinyLlama).
"""

SPAN = 5
"""How many layers are edited, as in most of these settings."""


def default_layers(n_layers: int, span: int = SPAN) -> list[int]:
    """Return consecutive layers that end at a depth of 0.3.

    Args:
        n_layers: number of layers of the model.
        span: how many are edited; fewer where the model has not so many below that depth.
    """
    last = min(round(DEPTH * n_layers), n_layers - 1)
    return list(range(max(last - span + 1, 0), last + 1))
