"""Where each supported architecture keeps its modules."""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Module paths of one model family; "{}" is the layer number.

    Orientation of the edited matrix, and whether a block returns its output bare or in a tuple, follow from the
    modules' types and need no declaration.

    Attributes:
        block: transformer block; its output is the residual stream after the layer.
        mlp: MLP of a block; its output is added to the residual stream.
        down_proj: the edited matrix: MLP hidden activations (d_ff) to residual stream (d_model).
        final_norm: norm between the last block and the head.
        head: residual stream to logits.
        post_norm: norm that the MLP's output passes before it is added to the residual stream, see `lm.post_norm`.
        soft_cap: entry of the configuration that holds c where logits are c·tanh(logits / c).
        bos: every text of the family must begin with BOS; it is added where the tokenizer does not.
    """

    block: str
    mlp: str
    down_proj: str
    final_norm: str
    head: str
    post_norm: str | None = None
    soft_cap: str | None = None
    bos: bool = False


_GPT2 = {
    "block": "transformer.h.{}",
    "mlp": "transformer.h.{}.mlp",
    "final_norm": "transformer.ln_f",
    "head": "lm_head",
}
_LLAMA = {
    "block": "model.layers.{}",
    "mlp": "model.layers.{}.mlp",
    "down_proj": "model.layers.{}.mlp.down_proj",
    "final_norm": "model.norm",
    "head": "lm_head",
}
_POST_NORM = {"post_norm": "model.layers.{}.post_feedforward_layernorm"}
_GEMMA = _LLAMA | {"bos": True}

ARCHITECTURES = {
    "gpt2": Architecture(**_GPT2, down_proj="transformer.h.{}.mlp.c_proj"),
    "gptj": Architecture(**_GPT2, down_proj="transformer.h.{}.mlp.fc_out"),
    "gpt_neox": Architecture(
        block="gpt_neox.layers.{}",
        mlp="gpt_neox.layers.{}.mlp",
        down_proj="gpt_neox.layers.{}.mlp.dense_4h_to_h",
        final_norm="gpt_neox.final_layer_norm",
        head="lm_head",
    ),
    "llama": Architecture(**_LLAMA),
    "mistral": Architecture(**_LLAMA),
    "qwen2": Architecture(**_LLAMA),
    "qwen3": Architecture(**_LLAMA),
    "phi3": Architecture(**_LLAMA),
    "phi": Architecture(
        **_LLAMA | {"down_proj": "model.layers.{}.mlp.fc2", "final_norm": "model.final_layernorm"}
    ),
    "olmo2": Architecture(**_LLAMA, **_POST_NORM),
    "gemma": Architecture(**_GEMMA),
    "gemma2": Architecture(**_GEMMA, **_POST_NORM, soft_cap="final_logit_softcapping"),
    "gemma3_text": Architecture(**_GEMMA, **_POST_NORM, soft_cap="final_logit_softcapping"),
    "gemma3": Architecture(
        **{
            name: path.replace("model.", "model.language_model.")
            for name, path in (_LLAMA | _POST_NORM).items()
        },
        bos=True,
    ),  # with a vision tower
}
"""Declared architectures by `config.model_type`."""

DECLARED = frozenset(ARCHITECTURES)
"""Those that the package declares itself and tests; others are checked whenever a model is loaded."""


def declare(model_type: str, architecture: Architecture) -> None:
    """Make another model type known; every model of it that is loaded is compared with its declaration.

    Without Python: a JSON file {model_type: {"block": …, "mlp": …, …}}, named by the environment variable
    SEQEDIT_ARCHITECTURES.

    Raises:
        ValueError: the package declares this type itself, or a path lacks "{}".
    """
    if model_type in DECLARED:
        raise ValueError(
            f"{model_type!r} is declared by the package; declare a model type of your own"
        )
    for name in ("block", "mlp", "down_proj"):
        if getattr(architecture, name).count("{}") != 1:
            raise ValueError(
                f'{model_type}: {name}: {getattr(architecture, name)!r} must hold one "{{}}", the layer'
            )
    ARCHITECTURES[model_type] = architecture


def declare_file(path: Path) -> None:
    """`declare` what a JSON file holds.

    Raises:
        ValueError: the file is unreadable or an entry has other fields than `Architecture`; the message names it.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"SEQEDIT_ARCHITECTURES: {path} cannot be read: {error}") from error
    known = {field.name for field in fields(Architecture)}
    needed = known - {"post_norm", "soft_cap", "bos"}
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise ValueError(f"SEQEDIT_ARCHITECTURES: {path} must hold {{model_type: {{field: path}}}}")
    for model_type, row in rows.items():
        if wrong := sorted(row.keys() - known) + sorted(needed - row.keys()):
            raise ValueError(
                f"SEQEDIT_ARCHITECTURES: {path}: {model_type}: {wrong[0]} is "
                f"{'unknown' if wrong[0] in row else 'missing'}; fields are {', '.join(sorted(known))}"
            )
        declare(model_type, Architecture(**row))


def architecture_of(model_type: str) -> Architecture:
    """The declared architecture of a model type.

    Raises:
        ValueError: it is not declared; the message lists those that are, and says how to declare it.
    """
    if model_type not in ARCHITECTURES and (path := os.environ.get("SEQEDIT_ARCHITECTURES")):
        declare_file(Path(path))
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"model type {model_type!r} is not declared; known are {', '.join(ARCHITECTURES)}. Declare where "
            'its modules are in a JSON file, {"'
            + model_type
            + '": {"block": "model.layers.{}", "mlp": …, '
            '"down_proj": …, "final_norm": …, "head": …}}, and name the file in the environment variable '
            "SEQEDIT_ARCHITECTURES; or call seqedit.lm.architecture.declare. The chapter on architectures shows both"
        )
    return ARCHITECTURES[model_type]
