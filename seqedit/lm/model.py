"""A causal language model with its tokenizer, ready to be read and edited."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..base.precision import at_least_float32
from .architecture import Architecture


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
    def config(self) -> PretrainedConfig:
        """The configuration of the language model, also where the checkpoint holds a vision tower beside it."""
        return self.model.config.get_text_config()

    @property
    def n_layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def max_positions(self) -> int:
        return self.config.max_position_embeddings

    def block(self, layer: int) -> nn.Module:
        return self.model.get_submodule(self.architecture.block.format(layer))

    def mlp(self, layer: int) -> nn.Module:
        return self.model.get_submodule(self.architecture.mlp.format(layer))

    def down_proj(self, layer: int) -> nn.Module:
        return self.model.get_submodule(self.architecture.down_proj.format(layer))

    def post_norm(self, layer: int) -> nn.Module | None:
        """The norm between the MLP and the residual stream; None where the MLP's output is added as it is."""
        path = self.architecture.post_norm
        return path and self.model.get_submodule(path.format(layer))

    @property
    def removes_mean(self) -> bool:
        """Whether the model's norms subtract the mean, so that nothing reads an output along (1, …, 1).

        LayerNorm does (GPT-2, GPT-J, Pythia), RMSNorm does not (Llama and later).
        """
        return isinstance(self.model.get_submodule(self.architecture.final_norm), nn.LayerNorm)

    def logits(self, hidden: Tensor) -> Tensor:
        """Residual stream after the last block (…, d_model) to logits (…, vocabulary), in at least float32."""
        norm = self.model.get_submodule(self.architecture.final_norm)
        logits = self.model.get_submodule(self.architecture.head)(norm(hidden))
        if cap := self.architecture.soft_cap and getattr(self.config, self.architecture.soft_cap):
            logits = cap * torch.tanh(logits / cap)
        return at_least_float32(logits).to(self.device)
