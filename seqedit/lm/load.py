"""Load a causal language model with its tokenizer, ready to be read and edited."""

import logging as standard_logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from .architecture import DECLARED, architecture_of
from .check import check_architecture
from .checkpoint_check import check_loading, check_shards, check_vocabulary, read_config
from .gguf_file import forget_quantisation, quiet, source, weights
from .hub import why_not_built, why_not_loaded
from .model import LanguageModel
from .registry import locate
from .tokenizer import load_tokenizer


class _Needless(standard_logging.Filter):
    """Drops remarks of `transformers` that are none here.

    No attention mask is needed, because no token sees the padding, on the right. What does not fit
    in a checkpoint is an error, which says so itself.
    """

    def filter(self, record: standard_logging.LogRecord) -> bool:
        text = record.getMessage()
        return "attention_mask" not in text and "LOAD REPORT" not in text


_NEEDLESS = _Needless()  # one object, which a logger takes only once


def load_model(
    folder_or_id: str | Path, *, device: str = "auto", dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """Load a model in evaluation mode, without gradients; never run code that comes with it.

    Args:
        folder_or_id: local folder, hub id, GGUF file (de-quantised), "embedded" for the embedded
            model, or a name of `seqedit model list`.
        device: a device of torch; "auto" takes a GPU if there is one; "spread" lets `accelerate`
            distribute whole blocks over all GPUs.
        dtype: type of the weights, whatever the folder stores. In half precision, edited matrices
            are kept in float32 as well.

    Raises:
        ValueError: the folder does not exist or has no model or no tokenizer, the hub refuses it,
            the architecture is not declared, a declaration from outside the package is wrong, the
            tokenizer does not know which characters a token covers, or the checkpoint cannot be
            edited as it is (see `checkpoint_check`).
    """
    folder_or_id = locate(folder_or_id)
    logging.disable_progress_bar()
    logging.get_logger("transformers.modeling_utils").addFilter(_NEEDLESS)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    spread = {"device_map": "auto"} if device == "spread" else {}
    try:
        config = read_config(folder_or_id)
        architecture = architecture_of(config.model_type)
        tokenizer = load_tokenizer(folder_or_id, bos=architecture.bos)
        check_vocabulary(folder_or_id, tokenizer, config)
        check_shards(folder_or_id)
        model, info = _read(folder_or_id, dtype=dtype, **spread)
    except OSError as error:
        raise ValueError(why_not_loaded(str(folder_or_id), error)) from error
    check_loading(folder_or_id, info)
    forget_quantisation(model)
    if spread:
        check_not_offloaded(model)
    else:
        nn.Module.to(model, device)
    lm = LanguageModel(model.eval().requires_grad_(False), tokenizer, architecture)
    if model.config.model_type not in DECLARED:
        check_architecture(lm)
    return lm


def _read(folder_or_id: str | Path, **options: Any) -> tuple[Any, Any]:
    """The model of a folder, hub id or file, and what `transformers` says of its tensors.

    Raises:
        ValueError: its configuration describes no model.
        OSError: from `transformers`, if files cannot be read.
    """
    try:
        with quiet(folder_or_id):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **source(folder_or_id),
                **weights(folder_or_id),
                **options,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
            )
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(why_not_built(str(folder_or_id), error)) from error
    return loaded


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
