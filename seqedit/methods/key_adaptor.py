"""REP: a small adaptor before each edited matrix leads the keys of perturbed subjects to the keys that were edited."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..algebra.compact import whole
from ..algebra.solver import Solver
from ..base.clock import Clock
from ..base.precision import at_least_float32
from ..editing.contract import EditMethod, EditPlan, EditState, Writer, Written
from ..lm.hooks import forward_hooks, observe
from ..lm.keys import BARE, read_keys
from ..lm.model import LanguageModel
from ..lm.tokens import fill, lookup_rows, padded
from ..requests.request import EditRequest, reversed_words
from .locate_then_edit import LocateThenEdit

NAMES = ("A", "B", "gate", "bias")
GATE_STARTS_AT = 2.0  # σ(2) = 0.88: open, so that B can learn


@dataclass(frozen=True, kw_only=True)
class RobustKeys(EditMethod):
    """A base whose edited matrices read k̂ = k + gate(k)·kAB, one adaptor a layer for all edits, trained on keys alone.

    The adaptor is at work where the model is handed over; the base edits the model without it. With β(k) = kᵀC⁻¹k* /
    k*ᵀC⁻¹k*, how strongly the edit fires at k, its losses are means of: (β(k̂) − 1)² of the subject in other contexts
    and with its words reversed; β(k̂)² of the other tokens; relative ‖k̂ − k‖² of these, and of k*.

    Attributes:
        base: what edits; rank: of A and B; steps and lr: of Adam, in every round.

    Source:
        REP (2410.09338), with one adaptor where REP trains one for each edit, a linear gate, β where REP has a cosine,
        which leaves the length of a key free, and training keys that need no other language model.
    """

    base: LocateThenEdit
    rank: int
    steps: int
    lr: float

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "RobustKeysWriter":
        return RobustKeysWriter(lm, self, plan)

    @property
    def site(self) -> str:
        return self.base.site

    @contextmanager
    def beside(self, lm: LanguageModel, state: EditState) -> Iterator[None]:
        def adapt(adaptor):
            def hook(module, args, kwargs):
                k = args[0]
                gate = (k @ adaptor["gate"].to(k) + adaptor["bias"].to(k) > 0)[..., None]
                adapted = k + k @ adaptor["A"].to(k) @ adaptor["B"].to(k)
                return (torch.where(gate, adapted, k),), kwargs

            return hook

        hooks = [
            (lm.down_proj(layer), adapt(adaptor_of(state, layer, lm.device)))
            for layer in state.original
            if f"adaptor.A.{layer}" in state.memory
        ]
        with forward_hooks(before=hooks):
            yield


class RobustKeysWriter(Writer):
    """Writes by the base, then goes on training the adaptors with the keys of all edits so far."""

    def __init__(self, lm: LanguageModel, method: RobustKeys, plan: EditPlan):
        self.lm, self.method, self.plan, self.base = lm, method, plan, method.base.writer(lm, plan)
        self.whiten = {layer: Solver(ridged(whole(plan.moments[layer]))) for layer in plan.layers}

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        written = self.base.write(requests, state, clock)
        memory = dict(written.state.memory)
        with clock.stage("adaptor"):
            for layer in self.plan.layers:
                variants, owner, others = self._training_keys(requests, layer)
                earlier = state.keys[layer].shape[1]
                for name, new in (
                    ("variants", variants),
                    ("owner", owner + earlier),
                    ("others", others),
                ):
                    old = memory.get(f"adaptor.{name}.{layer}")
                    memory[f"adaptor.{name}.{layer}"] = (
                        new if old is None else torch.cat([old, new])
                    )
                start = adaptor_of(state, layer) if f"adaptor.A.{layer}" in memory else None
                adaptor = train_adaptor(
                    written.state.keys[layer].T,
                    self.whiten[layer].inverse(written.state.keys[layer]).T.float(),
                    *(
                        memory[f"adaptor.{name}.{layer}"]
                        for name in ("variants", "owner", "others")
                    ),
                    start,
                    self.method.rank,
                    self.method.steps,
                    self.method.lr,
                )
                memory |= {f"adaptor.{name}.{layer}": tensor for name, tensor in adaptor.items()}
        return replace(written, state=written.state.recalling(memory))

    def _training_keys(
        self, requests: list[EditRequest], layer: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keys of the subject in other ways, (v, d_ff), whose they are, (v,); keys of all other tokens."""
        templates = [t for group in self.plan.contexts for t in group]
        asked = [
            (i, replace(r, prompt=fill(t, r))) for i, r in enumerate(requests) for t in templates
        ]
        asked += [(i, turned) for i, r in enumerate(requests) for turned in reversed_words([r])]
        variants = read_keys(self.lm, [r for _, r in asked], BARE, layer).T.cpu()
        filled = [(fill(t, requests[0]), requests[0].subject) for t in templates]
        filled += [(r.prompt, r.subject) for r in requests]
        tokens, at = lookup_rows(self.lm, *zip(*filled, strict=True))
        call = observe(
            self.lm, padded(self.lm, tokens.ids), {layer: self.lm.down_proj(layer)}, last=layer
        )[layer]
        others = [
            at_least_float32(call.input[row, [i for i in range(len(ids)) if i != end]])
            for row, (ids, end) in enumerate(zip(tokens.ids, at, strict=True))
        ]
        return variants, torch.tensor([i for i, _ in asked]), torch.cat(others).cpu()


def adaptor_of(
    state: EditState, layer: int, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    return {name: state.memory[f"adaptor.{name}.{layer}"].to(device) for name in NAMES}


def ridged(C: Float[Tensor, "d_ff d_ff"]) -> Float[Tensor, "d_ff d_ff"]:
    """C with a millionth of its mean eigenvalue on the diagonal, so that it has an inverse."""
    return C.double() + 1e-6 * C.double().trace() / len(C) * torch.eye(len(C)).to(C.device)


def train_adaptor(
    edited: Float[Tensor, "n d_ff"],
    whitened: Float[Tensor, "n d_ff"],
    variants: Float[Tensor, "v d_ff"],
    owner: Tensor,
    others: Float[Tensor, "o d_ff"],
    start: dict[str, Tensor] | None,
    rank: int,
    steps: int,
    lr: float,
) -> dict[str, Tensor]:
    """Adam on the four losses of `RobustKeys`, from `start` or from an adaptor that changes nothing.

    Args:
        edited: keys k*; whitened: C⁻¹k*; variants: keys of the same subjects asked for otherwise, row i of subject
            owner[i].
    """
    d = edited.shape[1]
    if start is None:
        generator = torch.Generator().manual_seed(0)
        start = {
            "A": torch.randn(d, rank, generator=generator) / d**0.5,
            "B": torch.zeros(rank, d),
            "gate": torch.zeros(d),
            "bias": torch.tensor(GATE_STARTS_AT),
        }
    adaptor = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    firing = whitened / (edited * whitened).sum(dim=1, keepdim=True)  # β(k) = k · firing

    def adapted(k: Tensor) -> Tensor:
        gate = torch.sigmoid(k @ adaptor["gate"] + adaptor["bias"])[:, None]
        return k + gate * (k @ adaptor["A"] @ adaptor["B"])

    def relative(after: Tensor, before: Tensor) -> Tensor:
        return ((after - before).square().sum(1) / before.square().sum(1).clamp(min=1e-6)).mean()

    optimizer = torch.optim.Adam(adaptor.values(), lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            moved = adapted(others)
            near = (adapted(variants) * firing[owner]).sum(dim=1)
            loss = (
                (near - 1).square().mean()
                + (moved @ firing.T).square().mean()
                + relative(moved, others)
                + relative(adapted(edited), edited)
            )
            loss.backward()
            optimizer.step()
    return {name: tensor.detach() for name, tensor in adaptor.items()}
