"""Settings of a run: our own flat names, and the configuration files of the released repositories as they are."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..editing.contract import EditMethod
from ..lm.model import LanguageModel
from ..lm.target_loss import TargetConfig
from ..methods.catalogue import make_method, method_parameters

Lengths = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a method can be told.

    Attributes:
        method: name in `seqedit.methods.catalogue.METHODS`; parameters: of that method.
        layers: edited layers.
        target: how targets are optimised.
        context_lengths: (tokens, count) of each group of sampled context templates.
        batch_size: requests per round; None keeps the rounds of the file.
        max_update_ratio: see `EditPlan`.
    """

    method: str
    parameters: dict[str, float | int | str]
    layers: tuple[int, ...]
    target: TargetConfig
    context_lengths: Lengths = ((10, 5),)
    max_update_ratio: float = 10.0
    batch_size: int | None = None

    def make(self) -> EditMethod:
        return make_method(self.method, **self.parameters)


_TARGET = {field.name: field.type for field in fields(TargetConfig)}
_PLAIN = {
    "layers": tuple[int, ...],
    "context_lengths": Lengths,
    "max_update_ratio": float,
    "batch_size": int,
}
_POSITIVE = {"lr", "clamp", "max_update_ratio", "batch_size"}

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


def known_names(method: str) -> list[str]:
    """Every setting that `method` takes."""
    return list(dict.fromkeys([*method_parameters(method), *_TARGET, *_PLAIN]))


def build_settings(method: str, values: dict[str, Any]) -> Settings:
    """Typed settings from flat names; missing ones keep their defaults.

    Raises:
        ValueError: an unknown name (the message lists the known ones) or a value of the wrong type or range.
    """
    parameters, target, plain = {}, {}, {}
    known = method_parameters(method)
    for name, value in values.items():
        if name in known:
            parameters[name] = _typed(name, value, type(known[name]), positive=True)
        elif name in _TARGET:
            target[name] = _typed(name, value, _TARGET[name], positive=name in _POSITIVE)
        elif name in _PLAIN:
            plain[name] = _typed(name, value, _PLAIN[name], positive=name in _POSITIVE)
        else:
            raise ValueError(
                f"{method} has no setting {name!r}; it takes {', '.join(known_names(method))}"
            )
    if "layers" not in plain:
        raise ValueError("layers: none given; name the layers to edit, for example --layers 3,4,5")
    _check(target, plain)
    return Settings(
        method=method,
        parameters=known | parameters,
        target=replace(TargetConfig(), **target),
        **plain,
    )


def read_hyper(
    path: Path, method: str, lm: LanguageModel, statistics_given: bool
) -> tuple[dict[str, Any], list[str]]:
    """Flat settings from a JSON file of ours or of a released repository, and remarks on what has no effect.

    A released field that would change the result and cannot be honoured is refused; one that the released code
    never reads for this method is remarked on.

    Args:
        statistics_given: whether second moments or their corpus were given; otherwise the file's statistics fields
            ask for something that is not there.

    Raises:
        ValueError: unreadable file, unknown field, or a field that cannot be honoured; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"hyper: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"hyper: {path} must hold an object of settings")
    ours, remarks = set(known_names(method)), []
    values: dict[str, Any] = {}
    for name, value in content.items():
        own = name if name in ours else RELEASED.get(name)
        if own in ours:
            if own in values:
                raise ValueError(
                    f"hyper: {path}: {own} is given twice, once as {name}; leave one out"
                )
            values[own] = value
        elif name in NEVER_READ | _never_read_for(method):
            remarks.append(f"{name} is ignored: the released code never reads it for {method}")
        elif name in ON_COMMAND_LINE:
            remarks.append(f"{name} is ignored: the run has its own")
        elif name in STATISTICS:
            if not statistics_given:
                raise ValueError(
                    f"hyper: {path}: {name} = {value!r} cannot be honoured: give the second moments with "
                    "--moments, or their text with --corpus"
                )
            remarks.append(
                f"{name} is ignored: the second moments come from the file or text given"
            )
        else:
            expected = _fixed(method, lm).get(name)
            if expected is None:
                raise ValueError(
                    f"hyper: {path}: unknown field {name!r}; {method} takes {', '.join(sorted(ours))} "
                    f"or, by their released names, {', '.join(RELEASED)}"
                )
            if value != expected and not (
                name == "alg_name" and _letters(value) in _letters(method)
            ):
                raise ValueError(
                    f"hyper: {path}: {name} = {value!r} cannot be honoured; here it is {expected!r}"
                )
    return values, remarks


def _never_read_for(method: str) -> set[str]:
    """Released fields without any effect on a method, whatever their value."""
    if method in ("rome", "r_rome"):
        return {"mom2_update_weight"}
    return {"mom2_adjustment"} | (
        {"mom2_update_weight", "layer_selection"} if method == "alphaedit" else set()
    )


def _fixed(method: str, lm: LanguageModel) -> dict[str, Any]:
    """Released fields that say what we do in one way only; another value must be refused."""
    a = lm.architecture
    return {
        "fact_token": "subject_last",
        "rewrite_module_tmp": a.down_proj,
        "layer_module_tmp": a.block,
        "ln_f_module": a.final_norm,
        "lm_head_module": a.head,
        "v_loss_layer": lm.n_layers - 1,
        "mom2_adjustment": True,
        "layer_selection": "all",
        "alg_name": method,
        "fp16": False,
        "model_parallel": False,
    } | ({"max_iterations": 3} if method.startswith("nse") else {})


def _letters(name: Any) -> str:
    """R-ROME, r_rome and RROME are one name; MEMIT also names MEMIT-seq, ROME also r-ROME."""
    return "".join(filter(str.isalnum, str(name))).lower()


def parse_assignments(items: list[str]) -> dict[str, Any]:
    """`key=value` words to a dict; values are read as JSON where they are JSON, else as text.

    Raises:
        ValueError: a word has no "=".
    """
    values = {}
    for item in items:
        name, sign, text = item.partition("=")
        if not sign:
            raise ValueError(f"--set {item!r}: expected key=value")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values


def _typed(name: str, value: Any, kind: Any, positive: bool) -> Any:
    """`value` as `kind`; a number must be finite and not negative, where `positive` not zero either."""
    try:
        typed = TypeAdapter(kind, config={"allow_inf_nan": False}).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{name} = {value!r}: {error.errors()[0]['msg']}") from error
    if isinstance(typed, int | float) and (typed < 0 or positive and typed == 0):
        raise ValueError(
            f"{name} = {value!r}: must {'be positive' if positive else 'not be negative'}"
        )
    return typed


def _check(target: dict[str, Any], plain: dict[str, Any]) -> None:
    """Raises ValueError for values of the right type that mean nothing."""
    if target.get("steps", 2) < 2:
        raise ValueError(
            f"steps = {target['steps']}: must be at least 2, the last one only measures"
        )
    if target.get("kl_prompt", "{}").count("{}") != 1:
        raise ValueError(
            f'kl_prompt = {target["kl_prompt"]!r}: must hold "{{}}" once, for the subject'
        )
    if target.get("separator", " ") not in ("", " "):
        raise ValueError(f'separator = {target["separator"]!r}: must be " " or ""')
    if any(number < 1 for group in plain.get("context_lengths", ()) for number in group):
        raise ValueError(
            f"context_lengths = {plain['context_lengths']!r}: tokens and counts must be positive"
        )
