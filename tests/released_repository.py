"""The editing functions of a checkout of the released AlphaEdit repository, run where we run.

The checkout is not part of this project: it has no licence. It was written for CUDA and for a
`transformers` whose blocks return tuples. What is adapted here changes no arithmetic: CUDA becomes
the CPU, hooks on blocks see a tuple, second moments and context templates are handed over instead
of computed, and modules that only these need are left empty.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seqedit.editing.state import EditPlan
from seqedit.lm.model import LanguageModel
from seqedit.requests.request import EditRequest

PACKAGES = ("AlphaEdit", "memit", "rome", "util")
EMPTY = {
    "rome.layer_stats": {"layer_stats": None},
    "util.generate": {"generate_fast": None},
    "util.globals": {"DEVICE": torch.device("cpu"), "STATS_DIR": None},
}
"""Modules that compute second moments and sample templates: module → the names others import."""


@dataclass(frozen=True)
class Released:
    """The two modules of the checkout that edit.

    Attributes:
        memit: `memit/memit_main.py`.
        alphaedit: `AlphaEdit/AlphaEdit_main.py`.
    """

    memit: ModuleType
    alphaedit: ModuleType


def load_released(folder: Path) -> Released:
    """Import the two modules from a checkout, past the `__init__.py` of its packages."""
    try:
        for name in PACKAGES:
            sys.modules[name] = _module(name, __path__=[str(folder / name)])
        for name, content in EMPTY.items():
            sys.modules[name] = _module(name, **content)
        return Released(
            import_module("memit.memit_main"), import_module("AlphaEdit.AlphaEdit_main")
        )
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
            del sys.modules[name]


def _module(name: str, **content: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    return module


def memit(
    released: Released,
    lm: LanguageModel,
    rounds: Sequence[list[EditRequest]],
    plan: EditPlan,
    lam: float,
) -> None:
    """Edit by the released MEMIT, λ = `lam`."""
    main = released.memit
    hyper = _hyper_parameters(lm, plan) | {"mom2_update_weight": lam}
    matrix = hyper["rewrite_module_tmp"]
    C = {matrix.format(layer): plan.moments[layer].float() for layer in plan.layers}
    main.get_cov = lambda model, tok, layer_name, *rest, **options: C[layer_name]
    main.CONTEXT_TEMPLATES_CACHE = plan.contexts
    for requests in rounds:
        with _on_cpu(lm, plan):
            main.apply_memit_to_model(
                lm.model, lm.tokenizer, _records(requests), main.MEMITHyperParams(**hyper)
            )


def alphaedit(
    released: Released,
    lm: LanguageModel,
    rounds: Sequence[list[EditRequest]],
    plan: EditPlan,
    projections: Float[Tensor, "layers d_ff d_ff"],
    l2: float,
) -> None:
    """Edit by the released AlphaEdit, which is given its projections P on the null space of C."""
    main = released.alphaedit
    main.CONTEXT_TEMPLATES_CACHE = plan.contexts
    own = {"nullspace_threshold": None, "L2": l2}  # the threshold is in P
    hyper = main.AlphaEditHyperParams(**_hyper_parameters(lm, plan), **own)
    P = projections.to(lm.model.dtype)
    past = torch.zeros_like(P)
    for requests in rounds:
        with _on_cpu(lm, plan):
            _, past = main.apply_AlphaEdit_to_model(
                lm.model, lm.tokenizer, _records(requests), hyper, cache_c=past, P=P
            )


def _hyper_parameters(lm: LanguageModel, plan: EditPlan) -> dict[str, Any]:
    """A plan and a model as a released configuration; None for what its editing never reads."""
    target, paths = plan.target, lm.architecture
    unread = ("model_name", "layer_selection", "mom2_adjustment", "mom2_update_weight")
    unread += ("mom2_dataset", "mom2_n_samples", "mom2_dtype", "mlp_module_tmp", "attn_module_tmp")
    return dict.fromkeys(unread) | {
        "layers": list(plan.layers),
        "fact_token": "subject_last",
        "v_num_grad_steps": target.steps,
        "v_lr": target.lr,
        "v_loss_layer": lm.n_layers - 1,
        "v_weight_decay": target.weight_decay,
        "clamp_norm_factor": target.clamp,
        "kl_factor": target.kl,
        "rewrite_module_tmp": paths.down_proj,
        "layer_module_tmp": paths.block,
        "ln_f_module": paths.final_norm,
        "lm_head_module": paths.head,
    }


def _records(requests: list[EditRequest]) -> list[dict[str, Any]]:
    """Requests as the released code takes them."""
    return [
        {
            "case_id": request.case_id,
            "prompt": request.prompt,
            "subject": request.subject,
            "target_new": {"str": request.target_new},
        }
        for request in requests
    ]


class _CudaIsCpu(TorchFunctionMode):
    """Functions of torch that ask for "cuda" get "cpu"."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.cuda:
            return args[0]
        options = {name: _cpu(value) for name, value in (kwargs or {}).items()}
        return func(*map(_cpu, args), **options)


def _cpu(value: Any) -> Any:
    return "cpu" if isinstance(value, str) and value == "cuda" else value


@contextmanager
def _on_cpu(lm: LanguageModel, plan: EditPlan) -> Iterator[None]:
    """Within the `with` block the released code edits a model on the CPU with blocks of today."""
    blocks = [lm.block(plan.layers[-1]), lm.block(lm.n_layers - 1)]  # those that it hooks
    for block in blocks:
        block.register_forward_hook = partial(_register, block)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(lm.model.dtype)  # of the vector that it optimises
        with _CudaIsCpu():
            yield
    finally:
        torch.set_default_dtype(default)
        for block in blocks:
            del block.register_forward_hook


def _register(block: nn.Module, hook: Callable[..., tuple[Tensor]], **options: Any) -> Any:
    """Register a forward hook that takes and returns the block's output in a tuple."""

    def adapted(*args: Any) -> Tensor:
        (output,) = hook(*args[:-1], (args[-1],))
        return output

    return type(block).register_forward_hook(block, adapted, **options)
