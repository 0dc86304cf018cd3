"""Read a model from a GGUF file, de-quantised into an ordinary one.

`transformers` de-quantises with the package `gguf`, the extra `real`; the tokenizer is made from
the same file.
"""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from transformers import GgufConfig, PreTrainedModel
from transformers.utils import is_gguf_available


def is_gguf(model: str | Path) -> bool:
    """Whether a model is given as a GGUF file."""
    return Path(model).suffix == ".gguf" and Path(model).is_file()


def source(model: str | Path) -> dict[str, Any]:
    """The arguments by which `from_pretrained` finds a folder, a hub id or a GGUF file.

    Raises:
        ValueError: it is a GGUF file, and the package that reads such files is missing.
    """
    if not is_gguf(model):
        return {"pretrained_model_name_or_path": model}
    if not is_gguf_available():
        raise ValueError(
            f"{model}: the package gguf reads such files, and it is missing or too old; `pip "
            "install 'seqedit[real]'` installs it"
        )
    return {
        "pretrained_model_name_or_path": Path(model).parent,
        "gguf_file": Path(model).name,
    }


def weights(model: str | Path) -> dict[str, Any]:
    """Further arguments for weights: those of a GGUF file become plain matrices on every machine.

    Left to itself `transformers` keeps them packed where it finds a kernel for that.
    """
    return {"quantization_config": GgufConfig(dequantize=True)} if is_gguf(model) else {}


@contextmanager
def quiet(model: str | Path) -> Iterator[None]:
    """Keep the progress bar of de-quantising, which has no switch, out of what is no terminal."""
    if not is_gguf(model) or sys.stderr.isatty():
        yield
        return
    with redirect_stderr(io.StringIO()):
        yield


def forget_quantisation(model: PreTrainedModel) -> None:
    """Remove the marks of a quantised model, which would keep a de-quantised one from being saved.

    Nothing happens to other models.
    """
    if getattr(model, "quantization_method", None) is None:
        return
    vars(model).update(hf_quantizer=None, is_quantized=False)
    del model.quantization_method
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
