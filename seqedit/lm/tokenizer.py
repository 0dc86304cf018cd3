"""Load a tokenizer fit for editing: with character offsets, and with BOS if the model needs it."""

from pathlib import Path

from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .checkpoint_check import tokenizer_needs_code
from .gguf_file import is_gguf, source


def load_tokenizer(folder_or_id: str | Path, *, bos: bool) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, with special tokens as its own configuration has them.

    Args:
        folder_or_id: folder, hub id or GGUF file.
        bos: whether every text must begin with BOS, see `Architecture.bos`; the tokenizer is
            changed to add it if it does not.

    Raises:
        ValueError: there is no tokenizer, it does not know which characters a token covers, or it
            has no BOS although one is needed.
        OSError: from `transformers`, if files cannot be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source(folder_or_id), trust_remote_code=False)
    except OSError:
        raise
    except Exception as error:  # which one depends on the model type and on what the file holds
        if not is_gguf(folder_or_id) and (code := tokenizer_needs_code(folder_or_id)):
            raise ValueError(
                f"{folder_or_id}: tokenizer_config.json: auto_map: the tokenizer needs code of its "
                f"own ({code}), and code from a model folder is never run; save a fast tokenizer "
                "(tokenizer.json) beside the model"
            ) from error
        raise ValueError(
            f"{folder_or_id}: there is no tokenizer that can be loaded; save tokenizer.json beside "
            "the model. If there is a tokenizer.model only, install sentencepiece and tiktoken to "
            f"convert it ({(str(error).splitlines() or [type(error).__name__])[0]})"
        ) from error
    ids = tokenizer("a", add_special_tokens=False)["input_ids"]
    if not ids or set(ids) == {tokenizer.unk_token_id}:  # an empty one, made up from the model type
        raise ValueError(f"{folder_or_id}: there is no tokenizer; save it beside the model")
    if not tokenizer.is_fast:
        raise ValueError(
            f"{folder_or_id}: {type(tokenizer).__name__} has no character offsets, which "
            "are needed to find the subject; save the model with a fast tokenizer"
        )
    if bos:
        add_bos(tokenizer)
    return tokenizer


def add_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the tokenizer begin every text with exactly one BOS, whether or not it does so already.

    Raises:
        ValueError: the tokenizer has no BOS.
    """
    if tokenizer.bos_token_id is None:
        raise ValueError(
            f"{tokenizer.name_or_path}: the model needs a BOS token at the start of every text, "
            'but its tokenizer names none; put "bos_token" into its tokenizer_config.json'
        )
    if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        return
    backend, bos = tokenizer.backend_tokenizer, tokenizer.bos_token
    front = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    own = backend.post_processor
    backend.post_processor = processors.Sequence([own, front]) if own else front
