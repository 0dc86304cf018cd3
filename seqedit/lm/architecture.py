"""Where the modules of each supported model family are."""

import json
import os
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Paths of the modules of one model family; "{}" stands for the layer number.

    How the edited matrix is stored, and whether a block returns its output alone or in a tuple,
    follow from the types of the modules and are not declared.

    Attributes:
        block: the transformer block; its output is the residual stream after the layer.
        mlp: the MLP of a block; its output is added to the residual stream.
        down_proj: the edited matrix, from MLP hidden activations (d_ff) to the residual stream
            (d_model).
        final_norm: the norm between the last block and the head.
        head: from the residual stream to logits.
        post_norm: the norm that the MLP's output passes before it is added, if any; see
            `lm.post_norm`.
        soft_cap: the entry of the configuration that holds c, where logits are c · tanh(logits /
            c).
        bos: whether every text must begin with BOS, which is then added if the tokenizer does not
            add it.
    """

    block: str
    mlp: str
    down_proj: str
    final_norm: str
    head: str
    post_norm: str | None = None
    soft_cap: str | None = None
    bos: bool = False


GPT2 = Architecture(
    block="transformer.h.{}",
    mlp="transformer.h.{}.mlp",
    down_proj="transformer.h.{}.mlp.c_proj",
    final_norm="transformer.ln_f",
    head="lm_head",
)
GPT_NEOX = Architecture(
    block="gpt_neox.layers.{}",
    mlp="gpt_neox.layers.{}.mlp",
    down_proj="gpt_neox.layers.{}.mlp.dense_4h_to_h",
    final_norm="gpt_neox.final_layer_norm",
    head="lm_head",
)
LLAMA = Architecture(
    block="model.layers.{}",
    mlp="model.layers.{}.mlp",
    down_proj="model.layers.{}.mlp.down_proj",
    final_norm="model.norm",
    head="lm_head",
)
PHI = replace(LLAMA, down_proj="model.layers.{}.mlp.fc2", final_norm="model.final_layernorm")
OLMO2 = replace(LLAMA, post_norm="model.layers.{}.post_feedforward_layernorm")
GEMMA = replace(LLAMA, bos=True)
GEMMA2 = replace(OLMO2, bos=True, soft_cap="final_logit_softcapping")
GEMMA3_WITH_VISION = Architecture(
    block="model.language_model.layers.{}",
    mlp="model.language_model.layers.{}.mlp",
    down_proj="model.language_model.layers.{}.mlp.down_proj",
    final_norm="model.language_model.norm",
    head="lm_head",
    post_norm="model.language_model.layers.{}.post_feedforward_layernorm",
    bos=True,
)

ARCHITECTURES = {
    "gpt2": GPT2,
    "gptj": replace(GPT2, down_proj="transformer.h.{}.mlp.fc_out"),
    "gpt_neox": GPT_NEOX,
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "phi3": LLAMA,
    "phi": PHI,
    "olmo2": OLMO2,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2,
    "gemma3": GEMMA3_WITH_VISION,
}
"""Declared architectures by the `model_type` of a configuration."""

DECLARED = frozenset(ARCHITECTURES)
"""Model types that the package declares and tests; models of others are checked when loaded."""

FILE_VARIABLE = "SEQEDIT_ARCHITECTURES"
"""Environment variable that names a JSON file of further declarations, see `declare_file`."""


def declare(model_type: str, architecture: Architecture) -> None:
    """Make another model type known; models of it are compared with the declaration when loaded.

    The same without Python: see `declare_file`.

    Args:
        model_type: as the configuration of its models has it.
        architecture: where their modules are.

    Raises:
        ValueError: the package itself declares this type, or the path of a block, an MLP or an
            edited matrix has not exactly one "{}".
    """
    if model_type in DECLARED:
        raise ValueError(
            f"{model_type!r} is declared by the package; declare a model type of your own"
        )
    for name in ("block", "mlp", "down_proj"):
        path = getattr(architecture, name)
        if path.count("{}") != 1:
            raise ValueError(f'{model_type}: {name}: {path!r} must hold one "{{}}", the layer')
    ARCHITECTURES[model_type] = architecture


def declare_file(path: Path) -> None:
    """Declare every model type of a JSON file {model_type: {"block": …, "mlp": …, …}}.

    `architecture_of` reads the file that the environment variable SEQEDIT_ARCHITECTURES names.

    Raises:
        ValueError: the file cannot be read, or an entry has other fields than `Architecture`; the
            message names it.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{FILE_VARIABLE}: {path} cannot be read: {error}") from error
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise ValueError(f"{FILE_VARIABLE}: {path} must hold {{model_type: {{field: path}}}}")
    for model_type, entry in entries.items():
        _check_fields(entry, f"{FILE_VARIABLE}: {path}: {model_type}")
        declare(model_type, Architecture(**entry))


def _check_fields(entry: dict, where: str) -> None:
    """Check that an entry has all fields that an `Architecture` needs, and no unknown one.

    Raises:
        ValueError: it has not; the message names the field.
    """
    known = {field.name for field in fields(Architecture)}
    needed = {field.name for field in fields(Architecture) if field.default is MISSING}
    listed = ", ".join(sorted(known))
    if unknown := sorted(entry.keys() - known):
        raise ValueError(f"{where}: {unknown[0]} is unknown; fields are {listed}")
    if missing := sorted(needed - entry.keys()):
        raise ValueError(f"{where}: {missing[0]} is missing; fields are {listed}")


def architecture_of(model_type: str) -> Architecture:
    """Return the declared architecture of a model type.

    Raises:
        ValueError: it is not declared; the message lists those that are, and says how to declare
            it.
    """
    if model_type not in ARCHITECTURES and (path := os.environ.get(FILE_VARIABLE)):
        declare_file(Path(path))
    if model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(
            f"model type {model_type!r} is not declared; known are {known}. Declare where its "
            'modules are in a JSON file, {"'
            + model_type
            + '": {"block": "model.layers.{}", "mlp": …, '
            '"down_proj": …, "final_norm": …, "head": …}}, and name the file in the environment '
            f"variable {FILE_VARIABLE}; or call seqedit.lm.architecture.declare. The chapter on "
            "architectures shows both"
        )
    return ARCHITECTURES[model_type]
