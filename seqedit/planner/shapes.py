"""Shapes of models, counted from their configuration without loading a weight."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from ..lm.architecture import architecture_of
from ..lm.checkpoint_check import read_config
from ..lm.hub import why_not_built
from ..lm.registry import locate
from ..runs.presets import find_preset

DECLARED = {
    "gpt2-xl": ("gpt2", {"n_embd": 1600, "n_layer": 48, "n_head": 25}),
    "gpt-j-6b": (
        "gptj",
        {"n_embd": 4096, "n_layer": 28, "n_head": 16, "rotary_dim": 64, "vocab_size": 50_400},
    ),
    "smollm2-135m": (
        "llama",
        {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49_152,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        },
    ),
    "llama-2-7b": (
        "llama",
        {
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 32_000,
            "max_position_embeddings": 4096,
        },
    ),
    "llama-3-8b": (
        "llama",
        {
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128_256,
            "max_position_embeddings": 8192,
        },
    ),
    "qwen2.5-7b": (
        "qwen2",
        {
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152_064,
            "max_position_embeddings": 32_768,
        },
    ),
}
"""Name → model type and sizes of models, for machines without their configurations: the papers' and
the smallest pretrained one of this project.
"""

EDITED = {model: tuple(find_preset("alphaedit", model).settings["layers"]) for model in DECLARED}
"""Name → the layers that are edited in these models by their presets."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a model on which memory and time depend.

    Attributes:
        parameters: number of parameters, shared ones counted once.
        n_layers: number of blocks.
        d_model: width of the residual stream.
        d_ff: width of the MLP, the length of a key.
        vocabulary: number of tokens that the head predicts.
        block: number of entries of the matrices of one block.
        width: total width of the attention heads.
        kv_width: total width of the attention keys, which is that of the values.
        gated: whether the MLP has a gate, that is, three matrices.
    """

    parameters: int
    n_layers: int
    d_model: int
    d_ff: int
    vocabulary: int
    block: int
    width: int
    kv_width: int
    gated: bool


def config_of(model: str) -> PretrainedConfig:
    """The configuration of a model.

    Args:
        model: folder or hub id; or a name in `DECLARED`, if there is no such folder.

    Raises:
        ValueError: there is no such configuration; the message lists the declared ones.
    """
    if model in DECLARED and not Path(model).exists():
        model_type, sizes = DECLARED[model]
        return AutoConfig.for_model(model_type, **sizes)
    try:
        return read_config(locate(model))
    except OSError as error:
        raise ValueError(
            f"no configuration could be read from {model!r}; give a folder or hub id, or one of "
            f"{', '.join(DECLARED)}"
        ) from error


def shape_of(config: PretrainedConfig) -> Shape:
    """Count the shape of a model on torch's meta device.

    Raises:
        ValueError: the architecture is not declared, or the sizes are those of no model.
    """
    architecture = architecture_of(config.model_type)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(why_not_built(str(config.name_or_path), error)) from error
    block, mlp = (
        model.get_submodule(path.format(0)) for path in (architecture.block, architecture.mlp)
    )
    matrices = [p.numel() for p in block.parameters() if p.dim() == 2]
    vocabulary, d_model = model.get_submodule(architecture.head).weight.shape
    d_ff = model.get_submodule(architecture.down_proj.format(0)).weight.numel() // d_model
    text = config.get_text_config()
    heads = text.num_attention_heads
    head = getattr(text, "head_dim", None) or d_model // heads
    return Shape(
        parameters=sum(p.numel() for p in model.parameters()),
        n_layers=text.num_hidden_layers,
        d_model=d_model,
        d_ff=d_ff,
        vocabulary=vocabulary,
        block=sum(matrices),
        width=heads * head,
        kv_width=(getattr(text, "num_key_value_heads", None) or heads) * head,
        gated=sum(p.numel() for p in mlp.parameters() if p.dim() == 2) > 2 * d_model * d_ff,
    )
