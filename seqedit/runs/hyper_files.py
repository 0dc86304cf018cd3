"""Reads files of settings: our own, and the configuration files of the released repositories as
they are.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from ..lm.model import LanguageModel
from ..methods.catalogue import base_entry
from ..moments.files import PICKLED
from ..requests.fields import check_repeated, nearest
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
ON_COMMAND_LINE = {"model_name", "device", "stats_dir", "P_loc", "tokenizer_name"}
STATISTICS = {"mom2_dataset", "mom2_n_samples", "mom2_dtype"}


def read_hyper(
    path: Path, method: str, lm: LanguageModel, statistics_given: bool
) -> tuple[dict[str, Any], list[str]]:
    """Read the settings of a method from a file of ours or of a released repository.

    JSON, or YAML as EasyEdit and PRUNE have it.

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
    """The settings of a file; YAML if its ending says so, else JSON. Raises ValueError."""
    if path.suffix.lower() in PICKLED:
        raise ValueError(
            f"hyper: {path}: a {path.suffix} file is a pickle, which can run code when it is "
            "opened, and is never read; write the settings as JSON or YAML"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() in (".yaml", ".yml"):
            content = yaml.load(text, _Yaml)
        else:
            content = json.loads(text, object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"hyper: {path} cannot be read: {problem}") from error
    if not isinstance(content, dict):
        raise ValueError(f"hyper: {path} must hold an object of settings")
    return content


def _once(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """An object whose names are different. Raises ValueError for one that occurs twice."""
    check_repeated((str(name) for name, _ in pairs), "field")
    return {str(name): value for name, value in pairs}


class _Yaml(yaml.SafeLoader):
    """YAML of plain values, in which 5e-1 is a number and no name occurs twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        return _once(
            [
                (self.construct_object(name, deep=True), self.construct_object(value, deep=True))
                for name, value in node.value
            ]
        )


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


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
        close = nearest(name, [*known_names(method), *RELEASED])
        hint = f"{close!r}, which is most like it, of " if close else ""
        raise ValueError(
            f"hyper: {path}: unknown field {name!r}; {method} takes {hint}"
            f"{', '.join(sorted(known_names(method)))} or, by their released names, "
            f"{', '.join(RELEASED)}"
        )
    same_name = name == "alg_name" and _letters(value) in _letters(method)
    if value != expected and not same_name:
        raise ValueError(
            f"hyper: {path}: {name} = {value!r} cannot be honoured; here it is {expected!r}, which "
            "it also is if the field is left out"
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
