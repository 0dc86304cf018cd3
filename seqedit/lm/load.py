"""A causal language model with its tokenizer, ready to be read and edited."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..precision import at_least_float32
from .architecture import Architecture, architecture_of


@dataclass(frozen=True)
class LanguageModel:
    """Model, tokenizer and declared architecture; `frozen` concerns the bundle, weights change by `apply_update`.

    Attributes:
        masters: layer → float32 matrix, out × in, that the edited matrix of a model in half precision is rounded from;
            kept by `apply_update` and `write_weight`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    architecture: Architecture
    masters: dict[int, Tensor] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where token ids go in and everything that is read comes out, also of a model that is spread over devices."""
        return self.model.device

    @property
    def n_layers(self) -> int:
        return self.model.config.num_hidden_layers

    @property
    def max_positions(self) -> int:
        return self.model.config.max_position_embeddings

    def block(self, layer: int) -> nn.Module:
        return self.model.get_submodule(self.architecture.block.format(layer))

    def mlp(self, layer: int) -> nn.Module:
        return self.model.get_submodule(self.architecture.mlp.format(layer))

    def down_proj(self, layer: int) -> nn.Module:
        return self.model.get_submodule(self.architecture.down_proj.format(layer))

    def logits(self, hidden: Tensor) -> Tensor:
        """Residual stream after the last block (…, d_model) to logits (…, vocabulary), in at least float32."""
        norm = self.model.get_submodule(self.architecture.final_norm)
        return at_least_float32(self.model.get_submodule(self.architecture.head)(norm(hidden))).to(self.device)


def _not_about_masks(record) -> bool:
    """Drops the advice to pass an attention mask: here padding stands to the right, where no real token sees it."""
    return "attention_mask" not in record.getMessage()


def load_model(folder_or_id: str | Path, *, device: str = "auto", dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Load a local folder or hub id in evaluation mode, gradients off. Remote code is never run.

    Args:
        folder_or_id: whatever `from_pretrained` takes.
        device: "auto" takes a GPU where there is one; "spread" lets `accelerate` put whole blocks on all GPUs.
        dtype: of the weights, whatever the folder stores; in half precision the edited matrices are kept in float32 as
            well.

    Raises:
        ValueError: the folder is missing or holds no model or no tokenizer, the architecture is not declared, or the
            tokenizer cannot tell which characters a token covers.
    """
    logging.disable_progress_bar()
    logging.get_logger("transformers.modeling_utils").addFilter(_not_about_masks)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    spread = {"device_map": "auto"} if device == "spread" else {}
    try:
        config = AutoConfig.from_pretrained(folder_or_id)
        architecture = architecture_of(config.model_type)
        tokenizer = AutoTokenizer.from_pretrained(folder_or_id)
        if not tokenizer("a", add_special_tokens=False)["input_ids"]:
            raise ValueError(f"{folder_or_id}: there is no tokenizer; save it beside the model")
        if not tokenizer.is_fast:
            raise ValueError(f"{folder_or_id}: {type(tokenizer).__name__} has no character offsets, which "
                             "are needed to find the subject; save the model with a fast tokenizer")
        model = AutoModelForCausalLM.from_pretrained(folder_or_id, dtype=dtype, use_safetensors=True, **spread)
    except OSError as error:
        raise ValueError(f"no model could be loaded from {str(folder_or_id)!r}: "
                         f"{str(error).splitlines()[0]}") from error
    if spread:
        check_not_offloaded(model)
    else:
        model.to(device)
    return LanguageModel(model.eval().requires_grad_(False), tokenizer, architecture)


def check_not_offloaded(model: nn.Module) -> None:
    """Raises ValueError for a model of which some is not on any device: blocks run often, and are written to."""
    if away := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise ValueError(f"the model does not fit: {len(away)} of its matrices, the first being {away[0]}, were left "
                         "in the CPU's memory or on disk, where they cannot be edited. Use --dtype bfloat16, more or "
                         "larger GPUs, or --device cpu; `seqedit plan` tells what is needed")
