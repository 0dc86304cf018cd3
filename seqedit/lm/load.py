"""Load a causal language model with its tokenizer, ready to be read and edited."""

import logging as standard_logging
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from ..base.paths import find_model
from .architecture import DECLARED, architecture_of
from .check import check_architecture
from .hub import why_not_loaded
from .model import LanguageModel
from .tokenizer import load_tokenizer


class _NotAboutMasks(standard_logging.Filter):
    """Drops the advice to pass an attention mask: no token sees the padding, on the right."""

    def filter(self, record: standard_logging.LogRecord) -> bool:
        return "attention_mask" not in record.getMessage()


_NOT_ABOUT_MASKS = _NotAboutMasks()  # one object, which a logger takes only once


def load_model(
    folder_or_id: str | Path, *, device: str = "auto", dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """Load a local folder or hub id in evaluation mode, without gradients; never run remote code.

    Args:
        folder_or_id: whatever `from_pretrained` takes, or "embedded" for the embedded model.
        device: a device of torch; "auto" takes a GPU if there is one; "spread" lets `accelerate`
            distribute whole blocks over all GPUs.
        dtype: type of the weights, whatever the folder stores. In half precision, edited matrices
            are kept in float32 as well.

    Raises:
        ValueError: the folder does not exist or has no model or no tokenizer, the hub refuses it,
            the architecture is not declared, a declaration from outside the package is wrong, or
            the tokenizer does not know which characters a token covers.
    """
    folder_or_id = find_model(folder_or_id)
    logging.disable_progress_bar()
    logging.get_logger("transformers.modeling_utils").addFilter(_NOT_ABOUT_MASKS)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    spread = {"device_map": "auto"} if device == "spread" else {}
    try:
        architecture = architecture_of(_model_type(folder_or_id))
        tokenizer = load_tokenizer(folder_or_id, bos=architecture.bos)
        model = AutoModelForCausalLM.from_pretrained(
            folder_or_id, dtype=dtype, use_safetensors=True, **spread
        )
    except OSError as error:
        raise ValueError(why_not_loaded(str(folder_or_id), error)) from error
    if spread:
        check_not_offloaded(model)
    else:
        nn.Module.to(model, device)
    lm = LanguageModel(model.eval().requires_grad_(False), tokenizer, architecture)
    if model.config.model_type not in DECLARED:
        check_architecture(lm)
    return lm


def _model_type(folder_or_id: str | Path) -> str:
    """The model type that the configuration names.

    Raises:
        ValueError: `transformers` does not know it.
    """
    try:
        return AutoConfig.from_pretrained(folder_or_id).model_type
    except ValueError as error:
        raise ValueError(
            f"{folder_or_id}: {str(error).split('. ')[0]}. A newer transformers may know it; code "
            "from a model folder is never run"
        ) from error


def check_not_offloaded(model: nn.Module) -> None:
    """Check that every parameter is on a device; blocks run often, and are written to.

    Raises:
        ValueError: some parameters were left in CPU memory or on disk; the message says what to do.
    """
    if away := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise ValueError(
            f"the model does not fit: {len(away)} of its matrices, the first being {away[0]}, were "
            "left in the CPU's memory or on disk, where they cannot be edited. Use --dtype "
            "bfloat16, more or larger GPUs, or --device cpu; `seqedit plan` says what is needed"
        )
