"""Reads files of settings: our own, and the configuration files of the released repositories as
they are.
"""

import json
from pathlib import Path
from typing import Any

from ..lm.model import LanguageModel
from ..methods.catalogue import base_entry
from .settings import known_names

RELEASED = {
    "v_num_grad_steps": "steps",
    "v_lr": "lr",
    "clamp_norm_factor": "clamp",
    "kl_factor": "kl",
    "v_weight_decay": "weight_decay",
    "mom2_update_weight": "lam",
    "nullspace_threshold": "threshold",
    "L2": "l2",
    "layers": "layers",
    "context_template_length_params": "context_lengths",
    "alpha": "done_below",
    "upper_bound": "hopeless_from",
    "neuron_threshold": "mass",  # NSE
}
"""Names of the released configuration files → ours."""

NEVER_READ = {"attn_module_tmp", "mlp_module_tmp"}
ON_COMMAND_LINE = {"model_name", "device"}
STATISTICS = {"mom2_dataset", "mom2_n_samples", "mom2_dtype"}


def read_hyper(
    path: Path, method: str, lm: LanguageModel, statistics_given: bool
) -> tuple[dict[str, Any], list[str]]:
    """Read the settings of a method from a JSON file of ours or of a released repository.

    A released field that would change the result but cannot be honoured is an error. One that has
    no effect, because the released code does not read it for this method or because the run has it
    from elsewhere, gets a remark.

    Args:
        lm: the unedited model; module names in the file must be those of its architecture.
        statistics_given: whether the run was given second moments or a text for them, which the
            file's statistics fields would otherwise ask for.

    Returns:
        Flat settings under our names, and the remarks.

    Raises:
        ValueError: the file is unreadable, or a field is unknown or cannot be honoured; the message
            names it.
    """
    values: dict[str, Any] = {}
    remarks: list[str] = []
    ours = set(known_names(method))
    for name, value in _read_object(path).items():
        own = name if name in ours else RELEASED.get(name)
        if own in values:
            raise ValueError(f"hyper: {path}: {own} is given twice, once as {name}; leave one out")
        if own is not None and own in ours:
            values[own] = value
        elif remark := _why_ignored(path, name, value, method, statistics_given):
            remarks.append(f"{name} is ignored: {remark}")
        else:
            _check_fixed(path, name, value, method, lm)
    return values, remarks


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"hyper: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"hyper: {path} must hold an object of settings")
    return content


def _why_ignored(
    path: Path, name: str, value: Any, method: str, statistics_given: bool
) -> str | None:
    """Why a released field has no effect; None for a field that has one.

    Raises:
        ValueError: the field is about second moments, and the run was given none.
    """
    if name in NEVER_READ | base_entry(method).ignored:
        return f"the released code never reads it for {method}"
    if name in ON_COMMAND_LINE:
        return "the run has its own"
    if name not in STATISTICS:
        return None
    if not statistics_given:
        raise ValueError(
            f"hyper: {path}: {name} = {value!r} cannot be honoured: give the second moments with "
            "--moments, or their text with --corpus"
        )
    return "the second moments come from the file or text given"


def _check_fixed(path: Path, name: str, value: Any, method: str, lm: LanguageModel) -> None:
    """Refuse a released field that is unknown, or that asks for what is done in another way
    here.
    """
    expected = _fixed(method, lm).get(name)
    if expected is None:
        raise ValueError(
            f"hyper: {path}: unknown field {name!r}; {method} takes "
            f"{', '.join(sorted(known_names(method)))} or, by their released names, "
            f"{', '.join(RELEASED)}"
        )
    same_name = name == "alg_name" and _letters(value) in _letters(method)
    if value != expected and not same_name:
        raise ValueError(
            f"hyper: {path}: {name} = {value!r} cannot be honoured; here it is {expected!r}"
        )


def _fixed(method: str, lm: LanguageModel) -> dict[str, Any]:
    """Released fields that have one possible value here; another value must be refused."""
    architecture = lm.architecture
    fixed = {
        "fact_token": "subject_last",
        "rewrite_module_tmp": architecture.down_proj,
        "layer_module_tmp": architecture.block,
        "ln_f_module": architecture.final_norm,
        "lm_head_module": architecture.head,
        "v_loss_layer": lm.n_layers - 1,
        "mom2_adjustment": True,
        "layer_selection": "all",
        "alg_name": method,
        "fp16": False,
        "model_parallel": False,
    }
    return fixed | dict(base_entry(method).fixed)


def _letters(name: Any) -> str:
    """The letters and digits of a method's name: R-ROME, r_rome and RROME are one name.

    A released name may be part of ours: MEMIT names MEMIT-seq too, and ROME also r-ROME.
    """
    return "".join(filter(str.isalnum, str(name))).lower()
