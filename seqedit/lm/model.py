"""A causal language model with its tokenizer and the declaration of where its modules are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..base.precision import at_least_float32
from .architecture import Architecture

InFront = Callable[[Sequence[str]], list[str]]
"""From prompts to the text that stands before each of them; "" for none."""


@dataclass(frozen=True)
class LanguageModel:
    """A model, its tokenizer and its declared architecture.

    The bundle is frozen, its weights are not: `weights.apply_update` changes them.

    Attributes:
        model: the model, in evaluation mode and without gradients.
        tokenizer: a fast tokenizer, see `load_tokenizer`.
        architecture: where the model's modules are.
        masters: layer → float32 matrix, out × in, from which the edited matrix of a model in half
            precision is rounded; kept by the functions of `weights`.
        in_context: what puts text in front of prompts while it is at work (in-context editing).
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    architecture: Architecture
    masters: dict[int, Tensor] = field(default_factory=dict)
    in_context: list[InFront] = field(default_factory=list)

    def in_front(self, prompts: Sequence[str]) -> list[str]:
        """The text that stands before each prompt that the model is asked; "" ordinarily.

        All that measures answers to prompts reads them with it; ordinary text is read without.
        """
        parts = [own(prompts) for own in self.in_context]
        return (
            ["".join(texts) for texts in zip(*parts, strict=True)] if parts else [""] * len(prompts)
        )

    @property
    def device(self) -> torch.device:
        """Where token ids go in and what is read comes out, also if blocks are on other devices."""
        return self.model.device

    @property
    def config(self) -> PretrainedConfig:
        """The configuration of the language model, which may have a vision tower beside it."""
        return self.model.config.get_text_config()

    @property
    def n_layers(self) -> int:
        """The number of transformer blocks."""
        return self.config.num_hidden_layers

    @property
    def max_positions(self) -> int:
        """The number of tokens that the model can read at once."""
        return self.config.max_position_embeddings

    def block(self, layer: int) -> nn.Module:
        """The transformer block of a layer."""
        return self.model.get_submodule(self.architecture.block.format(layer))

    def mlp(self, layer: int) -> nn.Module:
        """The MLP of a layer."""
        return self.model.get_submodule(self.architecture.mlp.format(layer))

    def down_proj(self, layer: int) -> nn.Module:
        """The module that holds the edited matrix of a layer."""
        return self.model.get_submodule(self.architecture.down_proj.format(layer))

    def post_norm(self, layer: int) -> nn.Module | None:
        """The norm between the MLP and the residual stream; None if there is none."""
        path = self.architecture.post_norm
        return None if path is None else self.model.get_submodule(path.format(layer))

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the head."""
        return self.model.get_submodule(self.architecture.final_norm)

    @property
    def removes_mean(self) -> bool:
        """Whether norms subtract the mean, so that nothing reads what is written along (1, …, 1).

        LayerNorm does (GPT-2, GPT-J, Pythia), RMSNorm does not (Llama and later).
        """
        return isinstance(self.final_norm, nn.LayerNorm)

    def logits(self, hidden: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows vocabulary"]:
        """Turn the residual stream after the last block into logits, in at least float32."""
        logits = self.model.get_submodule(self.architecture.head)(self.final_norm(hidden))
        entry = self.architecture.soft_cap
        cap = None if entry is None else getattr(self.config, entry)
        if cap:
            logits = cap * torch.tanh(logits / cap)
        return at_least_float32(logits).to(self.device)
