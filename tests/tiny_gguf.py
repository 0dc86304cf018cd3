"""A tiny GGUF file, a wheel that holds it, and the table entry for that wheel."""

import json
import zipfile
from pathlib import Path

import gguf
import numpy as np
from tiny_models import build_lm

from seqedit.base.files import sha256
from seqedit.lm.model import LanguageModel
from seqedit.lm.registry import PackagedModel, Wheel

MEMBERS = ("tiny_part1/data/tiny.gguf.part00", "tiny_part2/data/tiny.gguf.part01")
LICENCE = "tiny_part1/data/TERMS.html"
TERMS = "<html><style>no</style><article><style>no</style><p>Be kind.</p></article>no</html>"


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key matrix in the order of llama.cpp: halves of each head interleaved."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path) -> LanguageModel:
    """Write a tied Llama of two layers with its byte-level BPE in float32, and return it."""
    lm = build_lm("llama", layers=2, tied=True)
    config, vocabulary = lm.model.config, lm.tokenizer.get_vocab()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocabulary, key=lambda token: vocabulary[token]))
    control, normal = 3, 1
    writer.add_token_types([control] + [normal] * (len(vocabulary) - 1))
    merges = json.loads(lm.tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in lm.model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        weight = tensor.numpy()
        for kind, heads in (("q_proj", 2), ("k_proj", 1)):
            if kind in name:
                weight = interleaved(weight, heads)
        stored = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(stored, np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return lm


def write_wheels(folder: Path, path: Path, *, must_accept: bool = False) -> PackagedModel:
    """Divide a GGUF file over two wheels in a folder, and return the entry that describes them.

    The first wheel also has a member that would leave the folder if its path were used, and code
    that would leave a file behind if it were imported.
    """
    content = path.read_bytes()
    parts = (content[: len(content) // 2], content[len(content) // 2 :])
    wheels = []
    for i, (member, part) in enumerate(zip(MEMBERS, parts, strict=True), 1):
        wheel = folder / f"tiny_part{i}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(member, part)
            if i == 1:
                archive.writestr(LICENCE, TERMS)
                archive.writestr("../escaped", "x")
                code = f"open({str(folder / 'code_was_run')!r}, 'w')"
                archive.writestr("tiny_part1/__init__.py", code)
        wheels.append(Wheel(f"tiny-part{i}==1.0", sha256(wheel), member, 0.1))
    return PackagedModel(
        wheels=tuple(wheels),
        sha256=sha256(path),
        bytes=len(content),
        quantisation="F32",
        parameters=0.01,
        licence="Terms of Kindness",
        licence_member=LICENCE,
        licence_url="https://example.org/terms",
        must_accept=must_accept,
        hub_id="example/tiny",
    )
