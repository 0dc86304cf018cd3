"""Refuse checkpoints that would be read wrongly: most of them before a weight is loaded."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import cached_file

from ..base.tensors import open_tensors
from .gguf_file import is_gguf, source
from .hub import why_not_built

_OLD_BUFFERS = re.compile(r"\.attn\.(masked_)?bias$|rotary_emb\.inv_freq$")
"""Causal masks and frequencies that old checkpoints store though the code computes them."""


def read_config(model: str | Path) -> PretrainedConfig:
    """Read a model's configuration, after the checks that need no more than that.

    Args:
        model: folder, hub id or GGUF file.

    Raises:
        ValueError: the folder holds an adapter, quantised weights or a model that needs code of its
            own; or `transformers` does not know its type.
        OSError: from `transformers`, if there is no such model.
    """
    if not is_gguf(model):
        _check_files(model)
    try:
        return AutoConfig.from_pretrained(**source(model), trust_remote_code=False)
    except ValueError as error:
        raise ValueError(
            f"{model}: {str(error).split('. ')[0]}. A newer transformers may know it; code "
            "from a model folder is never run"
        ) from error
    except OSError:
        raise
    except Exception as error:  # which one depends on the model type and on what the file holds
        raise ValueError(why_not_built(str(model), error)) from error


def _check_files(model: str | Path) -> None:
    """Look at the JSON files of a folder or hub id, as they are.

    Raises:
        ValueError: see `read_config`.
    """
    if adapter := _json(model, "adapter_config.json"):
        base = adapter.get("base_model_name_or_path")
        raise ValueError(
            f"{model}: adapter_config.json: this is an adapter{f' of {base}' if base else ''}, and "
            "edits are of whole matrices; merge it (peft: merge_and_unload, then save_pretrained "
            "to a new folder) and give that folder, or remove the adapter's files to edit the base"
        )
    config = _json(model, "config.json")
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if found := part.get("quantization_config") or part.get("compression_config"):
            named = isinstance(found, dict) and found.get("quant_method")
            method = named or "an unnamed method"
            raise ValueError(
                f"{model}: config.json: quantization_config: the weights are quantised ({method}), "
                "and an update cannot be added to them; take the checkpoint in float32, bfloat16 "
                "or float16 that it was made from"
            )
    if "auto_map" in config and not _native(config):
        raise ValueError(
            f"{model}: config.json: auto_map: this model needs code of its own "
            f"({_code(config['auto_map'])}), and code from a model folder is never run; take a "
            "version in the format of transformers (many are named -hf), or a newer transformers"
        )


def _native(config: Mapping[str, Any]) -> bool:
    """Whether `transformers` has classes of its own for a configuration that names others."""
    classes = config.get("architectures") or []
    known = str(config.get("model_type")) in CONFIG_MAPPING
    return known and all(hasattr(transformers, str(name)) for name in classes)


def _code(auto_map: Any) -> str:
    """The modules that an auto_map names, e.g. "modeling_x.py"."""
    values = auto_map.values() if isinstance(auto_map, dict) else [auto_map]
    names = {str(name).rsplit(".", 1)[0] for value in values for name in _flat(value) if name}
    return ", ".join(f"{name}.py" for name in sorted(names))


def _flat(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else [value]


def tokenizer_needs_code(model: str | Path) -> str | None:
    """The modules that a tokenizer's configuration names, or None if it names none."""
    auto_map = _json(model, "tokenizer_config.json").get("auto_map")
    return _code(auto_map) if auto_map else None


def _json(model: str | Path, name: str) -> dict[str, Any]:
    """A JSON file of a folder or hub id; empty if there is none.

    Raises:
        ValueError: it is no JSON object.
    """
    path = cached_file(model, name, _raise_exceptions_for_missing_entries=False)
    if path is None:
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of JSON, or of UTF-8
        raise ValueError(f"{model}: {name}: not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{model}: {name}: expected a JSON object, found {type(found).__name__}")
    return found


def check_vocabulary(
    model: str | Path, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig
) -> None:
    """Check that every token a text can become has a row of the embedding.

    Special tokens that nothing uses may be without one (Gemma 3 has one for images in the tokenizer
    of its text models); those for begin, end, padding and the unknown may not.

    Raises:
        ValueError: some tokens have none.
    """
    size = config.get_text_config().vocab_size
    unused = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special} - {
        tokenizer.bos_token,
        tokenizer.eos_token,
        tokenizer.pad_token,
        tokenizer.unk_token,
    }
    outside = {
        token: i for token, i in tokenizer.get_vocab().items() if i >= size and token not in unused
    }
    if outside:
        first = min(outside, key=lambda token: outside[token])
        raise ValueError(
            f"{model}: the tokenizer is larger than the embedding: {len(outside)} tokens, the "
            f"first being {first!r} (id {outside[first]}), have no row among {size}; save the "
            "tokenizer that belongs to the model, or resize the model (resize_token_embeddings) "
            "and train it on them"
        )


def check_shards(model: str | Path) -> None:
    """Check the headers of a local folder's files of tensors, and that none of them is missing.

    A header says where each tensor ends; a file that was cut off does not reach so far.

    Raises:
        ValueError: a file is damaged or missing, or the index names one of another folder; the
            message names it.
    """
    folder = Path(model)
    if not folder.is_dir():
        return  # the hub's files have checksums
    index = _json(model, name := "model.safetensors.index.json")
    shards = index.get("weight_map", {} if not index else None)
    if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise ValueError(f"{folder / name}: has no weight_map of files; get it anew")
    if elsewhere := sorted({file for file in shards.values() if Path(file).name != file}):
        raise ValueError(
            f"{folder / name}: names {elsewhere[0]!r}, which is not a file of this folder, and "
            "weights are read from the model's folder alone; put the shards beside the index"
        )
    named = {folder / file for file in shards.values()}
    for path in sorted(named | set(folder.glob("model*.safetensors"))):
        try:
            with open_tensors(path):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: is damaged or missing ({error}); get it anew") from error


def check_loading(model: str | Path, info: Mapping[str, Iterable[Any]]) -> None:
    """Check that the checkpoint holds the model's tensors, and no others.

    Args:
        model: for the message.
        info: `output_loading_info` of `from_pretrained`; a tied head is not missing in it.

    Raises:
        ValueError: tensors are missing, of another shape, or unexpected; the message names them.
    """
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"{model}: {_some(missing)} missing in the checkpoint and would be random; save the "
            "whole model again with save_pretrained"
        )
    if mismatched := sorted(info["mismatched_keys"], key=str):
        name, stored, expected = mismatched[0]
        raise ValueError(
            f"{model}: {_some([one[0] for one in mismatched])} of another shape than config.json "
            f"says: {name} is {tuple(stored)}, expected {tuple(expected)}; take config.json and "
            "weights of the same model"
        )
    unexpected = sorted(key for key in info["unexpected_keys"] if not _OLD_BUFFERS.search(key))
    if unexpected:
        raise ValueError(
            f"{model}: {_some(unexpected)} in the checkpoint, but not in a model as config.json "
            "describes it, which would compute something else; take config.json of the same model"
        )


def _some(names: list[str]) -> str:
    """Names as the subject of a sentence: the first three, and how many more."""
    shown = ", ".join(names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{shown}{more} {'is' if len(names) == 1 else 'are'}"
