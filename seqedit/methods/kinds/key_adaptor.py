"""REP: an adaptor before each edited matrix leads keys of perturbed subjects to the edited keys."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...algebra.compact import whole
from ...algebra.solver import Solver
from ...base.clock import Clock
from ...base.precision import at_least_float32
from ...editing.contract import EditMethod, Writer, Written
from ...editing.state import EditPlan, EditState
from ...lm.hooks import BeforeHook, forward_hooks, observe
from ...lm.keys import BARE, Average, read_keys
from ...lm.model import LanguageModel
from ...lm.tokens import fill, lookup_rows, padded
from ...requests.request import EditRequest, reversed_words
from .locate_then_edit import LocateThenEdit

Adaptor = dict[str, Tensor]
"""A (d_ff, rank), B (rank, d_ff), gate (d_ff,) and bias ()."""

PARTS = ("A", "B", "gate", "bias")
GATE_STARTS_AT = 2.0  # σ(2) = 0.88: open, so that B can learn


@dataclass(frozen=True, kw_only=True)
class RobustKeys(EditMethod):
    """A base whose edited matrices read k̂ = k + gate(k)·kAB instead of their input k.

    There is one adaptor a layer for all edits, trained on keys alone. It is at work where the model
    is handed over; the base edits the model without it. How strongly an edit fires at k is
    β(k) = kᵀC⁻¹k* / k*ᵀC⁻¹k*. The loss adds up four means: (β(k̂) − 1)² of the subject in other
    contexts and with its words reversed; β(k̂)² of other tokens; relative ‖k̂ − k‖² of other
    tokens; and the same of k*.

    Attributes:
        base: the method that edits.
        rank: rank of A and B.
        steps: steps of Adam in every round.
        lr: Adam's step.

    Source:
        REP (2410.09338). Departs from it: one adaptor for all edits, where REP trains one for each;
        a linear gate; β where REP has a cosine, which leaves the length of a key free; and training
        keys that need no other language model.
    """

    supports: ClassVar[frozenset[str]] = frozenset()

    base: LocateThenEdit
    rank: int
    steps: int
    lr: float

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "RobustKeysWriter":
        return RobustKeysWriter(lm, self, plan)

    @property
    def key_average(self) -> Average | None:
        return None  # the model that is handed over reads adapted keys

    @property
    def needs_gradients(self) -> bool:
        return self.base.needs_gradients

    @contextmanager
    def beside(self, lm: LanguageModel, state: EditState) -> Iterator[None]:
        hooks = []
        for layer in state.original:
            adaptor = stored_adaptor(state, layer, lm.device)
            if adaptor is not None:
                hooks.append((lm.down_proj(layer), _adapting_hook(adaptor)))
        with forward_hooks(before=hooks):
            yield


def _adapting_hook(adaptor: Adaptor) -> BeforeHook:
    """A hook that puts k̂ in the place of a module's input; its gate is open or shut."""

    def hook(module, args, kwargs):
        k = args[0]  # (…, d_ff)
        gate = (k @ adaptor["gate"].to(k) + adaptor["bias"].to(k) > 0)[..., None]
        adapted = k + k @ adaptor["A"].to(k) @ adaptor["B"].to(k)
        return (torch.where(gate, adapted, k),), kwargs

    return hook


class RobustKeysWriter(Writer):
    """Writes by the base, then goes on training the adaptors with the keys of all edits so far."""

    def __init__(self, lm: LanguageModel, method: RobustKeys, plan: EditPlan):
        self.lm, self.method, self.plan = lm, method, plan
        self.base = method.base.writer(lm, plan)
        self.whiten = {layer: Solver(ridged(whole(plan.moments[layer]))) for layer in plan.layers}

    def current_values(self, requests: list[EditRequest]) -> Float[Tensor, "n d_model"]:
        return self.base.current_values(requests)

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        written = self.base.write(requests, state, clock)
        memory = dict(written.state.memory)
        with clock.stage("adaptor"):
            for layer in self.plan.layers:
                memory |= self._trained(requests, layer, state, written.state)
        return replace(written, state=written.state.with_memory(memory))

    def _trained(
        self, requests: list[EditRequest], layer: int, before: EditState, after: EditState
    ) -> dict[str, Tensor]:
        """What a layer remembers after the round: its training keys and its adaptor, by name."""
        variants, owner, others = self._training_keys(requests, layer)
        new = {
            "variants": variants,
            "owner": owner + before.keys[layer].shape[1],
            "others": others,
        }
        training = {}
        for name, rows in new.items():
            old = before.memory.get(_training_name(name, layer))
            training[name] = rows if old is None else torch.cat([old, rows])
        edited = after.keys[layer]  # (d_ff, N)
        adaptor = train_adaptor(
            edited.T,
            self.whiten[layer].inverse(edited).T.float(),
            **training,
            start=stored_adaptor(before, layer),
            rank=self.method.rank,
            steps=self.method.steps,
            lr=self.method.lr,
        )
        remembered = {_training_name(name, layer): rows for name, rows in training.items()}
        return remembered | {_part_name(part, layer): adaptor[part] for part in PARTS}

    def _training_keys(
        self, requests: list[EditRequest], layer: int
    ) -> tuple[Float[Tensor, "v d_ff"], Int[Tensor, "v"], Float[Tensor, "o d_ff"]]:
        """Keys of the subjects in other prompts, whose they are, and keys of other tokens."""
        templates = [template for group in self.plan.contexts for template in group]
        asked = []  # number of the request, and the request in another form
        for i, request in enumerate(requests):
            asked += [(i, request.in_context(template)) for template in templates]
        for i, request in enumerate(requests):
            asked += [(i, turned) for turned in reversed_words([request])]
        variants = read_keys(self.lm, [request for _, request in asked], BARE, layer).T.cpu()
        owner = torch.tensor([i for i, _ in asked])
        return variants, owner, self._other_keys(requests, templates, layer)

    def _other_keys(
        self, requests: list[EditRequest], templates: list[str], layer: int
    ) -> Float[Tensor, "o d_ff"]:
        """Keys of all tokens but the subject's last, of one request in all contexts and of each."""
        prompts = [fill(t, requests[0]) for t in templates] + [fill("{}", r) for r in requests]
        subjects = [requests[0].subject] * len(templates) + [r.subject for r in requests]
        tokens, positions = lookup_rows(self.lm, prompts, subjects)
        batch = padded(self.lm, tokens.ids)
        call = observe(self.lm, batch, {layer: self.lm.down_proj(layer)}, last=layer)[layer]
        others = []
        for row, (ids, subject_end) in enumerate(zip(tokens.ids, positions, strict=True)):
            rest = [i for i in range(len(ids)) if i != subject_end]
            others.append(at_least_float32(call.input[row, rest]))
        return torch.cat(others).cpu()


def stored_adaptor(
    state: EditState, layer: int, device: torch.device | str = "cpu"
) -> Adaptor | None:
    """The adaptor of a layer; None before the first round."""
    if _part_name("A", layer) not in state.memory:
        return None
    return {part: state.memory[_part_name(part, layer)].to(device) for part in PARTS}


def _part_name(part: str, layer: int) -> str:
    return f"beside.adaptor.{part}.{layer}"


def _training_name(name: str, layer: int) -> str:
    return f"adaptor.{name}.{layer}"


def ridged(C: Float[Tensor, "d_ff d_ff"]) -> Float[Tensor, "d_ff d_ff"]:
    """C with a millionth of its mean eigenvalue on the diagonal, so that it has an inverse."""
    return C.double() + 1e-6 * C.double().trace() / len(C) * torch.eye(len(C)).to(C.device)


def train_adaptor(
    edited: Float[Tensor, "n d_ff"],
    whitened: Float[Tensor, "n d_ff"],
    variants: Float[Tensor, "v d_ff"],
    owner: Int[Tensor, "v"],
    others: Float[Tensor, "o d_ff"],
    start: Adaptor | None,
    rank: int,
    steps: int,
    lr: float,
) -> Adaptor:
    """Adam on the four losses of `RobustKeys`.

    Args:
        edited: keys k*.
        whitened: C⁻¹k*.
        variants: keys of the same subjects asked for in other ways; row i is of subject owner[i].
        owner: rows of `edited`.
        others: keys of other tokens.
        start: adaptor to start from; None takes one that changes nothing.
    """
    if start is None:
        start = _identity_adaptor(edited.shape[1], rank)
    adaptor = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    firing = whitened / (edited * whitened).sum(dim=1, keepdim=True)  # β(k) = k · firing

    def adapted(k: Tensor) -> Tensor:
        gate = torch.sigmoid(k @ adaptor["gate"] + adaptor["bias"])[:, None]
        return k + gate * (k @ adaptor["A"] @ adaptor["B"])

    optimizer = torch.optim.Adam(adaptor.values(), lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            moved = adapted(others)
            near = (adapted(variants) * firing[owner]).sum(dim=1)
            loss = (
                (near - 1).square().mean()
                + (moved @ firing.T).square().mean()
                + _relative_change(moved, others)
                + _relative_change(adapted(edited), edited)
            )
            loss.backward()
            optimizer.step()
    return {name: tensor.detach() for name, tensor in adaptor.items()}


def _identity_adaptor(d_ff: int, rank: int) -> Adaptor:
    generator = torch.Generator().manual_seed(0)
    return {
        "A": torch.randn(d_ff, rank, generator=generator) / d_ff**0.5,
        "B": torch.zeros(rank, d_ff),
        "gate": torch.zeros(d_ff),
        "bias": torch.tensor(GATE_STARTS_AT),
    }


def _relative_change(after: Float[Tensor, "n d_ff"], before: Float[Tensor, "n d_ff"]) -> Tensor:
    """Mean over rows of ‖after − before‖² / ‖before‖²."""
    return ((after - before).square().sum(1) / before.square().sum(1).clamp(min=1e-6)).mean()
