"""In-context editing: no weight is written; a statement stands before prompts that ask for it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ...base.clock import Clock
from ...base.precision import at_least_float32
from ...editing.contract import EditMethod, Writer, Written
from ...editing.state import NAN, EditPlan, EditState, Outcome
from ...lm.hooks import observe
from ...lm.model import LanguageModel
from ...lm.tokens import chunks, padded, tokenise
from ...requests.request import EditRequest

EDITS, STATES = "beside.context.edits", "beside.context.states"
NEUTRAL = "beside.context.neutral"

ROOM = 16
"""Positions that are left for an answer; a statement that leaves fewer is not put in front."""


class Statement(NamedTuple):
    """What is remembered of an edit.

    Attributes:
        text: the prompt with its subject.
        target: the new object.
        prompts: the prompts that ask for it; only the oracle knows them.
    """

    text: str
    target: str
    prompts: list[str]


@dataclass(frozen=True, kw_only=True)
class InContext(EditMethod):
    """The statement of the nearest edit stands in front of a prompt that the model is asked.

    How near a prompt is to an edit is the cosine between the last block's outputs at their last
    tokens, after the mean over all edits and context templates was subtracted. Texts that ask for
    nothing, those of perplexity and of hidden states, are read as they are.

    Attributes:
        similarity: the least cosine at which a statement is put in front.
        retrieval: "nearest"; or "oracle", which knows the prompt, the paraphrases and the questions
            of every edit, and puts its statement in front of these and of nothing else.

    Source:
        IKE (2305.12740) without demonstrations, with the retrieval of SCR; the retriever is the
        model itself instead of a second one.
    """

    supports: ClassVar[frozenset[str]] = frozenset()

    similarity: float = 0.7
    retrieval: Literal["nearest", "oracle"] = "nearest"

    def writer(self, lm: LanguageModel, plan: EditPlan) -> "InContextWriter":
        return InContextWriter(lm, self, plan)

    @contextmanager
    def beside(self, lm: LanguageModel, state: EditState) -> Iterator[None]:
        reader = Reader(lm, self, state)
        lm.in_context.append(reader.in_front)
        try:
            yield
        finally:
            lm.in_context.remove(reader.in_front)


class InContextWriter(Writer):
    """Remembers statements, and the model's states at their prompts."""

    def __init__(self, lm: LanguageModel, method: InContext, plan: EditPlan):
        self.lm, self.method, self.plan = lm, method, plan

    def write(self, requests: list[EditRequest], state: EditState, clock: Clock) -> Written:
        memory, oracle = dict(state.memory), self.method.retrieval == "oracle"
        known = {one.text: one for one in statements(memory)}
        new = list(dict.fromkeys(r.text for r in requests if r.text not in known))
        for r in requests:  # a later edit of the same prompt takes the place of the earlier one
            asking = [r.text, *r.paraphrase_prompts, *r.questions] if oracle else []
            known[r.text] = Statement(r.text, r.target_new, asking)
        memory[EDITS] = _as_bytes(list(known.values()))
        if not oracle:
            with clock.stage("keys"):
                if NEUTRAL not in memory:
                    neutral = [
                        t.replace("{}", "").strip() for own in self.plan.contexts for t in own
                    ]
                    memory[NEUTRAL] = end_states(self.lm, [t for t in neutral if t]).cpu()
                before = memory.get(STATES, memory[NEUTRAL][:0])
                memory[STATES] = torch.cat([before, end_states(self.lm, new).cpu()])
        outcomes = [
            Outcome(r.case_id, "edited", "kept as a statement", NAN, 0, False) for r in requests
        ]
        return Written(outcomes, state.with_memory(memory))


class Reader:
    """Says what stands in front of prompts, from what a state remembers."""

    def __init__(self, lm: LanguageModel, method: InContext, state: EditState):
        self.lm, self.method = lm, method
        self.statements = statements(state.memory)
        self.asked = {prompt: i for i, one in enumerate(self.statements) for prompt in one.prompts}
        if STATES in state.memory:
            keys, neutral = (state.memory[name].to(lm.device) for name in (STATES, NEUTRAL))
            self.mean = torch.cat([keys, neutral]).mean(dim=0)
            self.keys = normalize(keys - self.mean, dim=1)  # (edits, d_model)

    def in_front(self, prompts: Sequence[str]) -> list[str]:
        """The text before each prompt, with a space at its end; "" for none."""
        different = list(dict.fromkeys(prompts))
        numbers = dict(zip(different, self._nearest(different), strict=True))
        found = {prompt: self._text(prompt, number) for prompt, number in numbers.items()}
        return [found[prompt] for prompt in prompts]

    def _nearest(self, prompts: list[str]) -> list[int | None]:
        """The number of the edit that each prompt asks for; None for none."""
        if self.method.retrieval == "oracle" or not self.statements:
            return [self.asked.get(prompt) for prompt in prompts]
        states = normalize(end_states(self.lm, prompts) - self.mean, dim=1)
        best = (states @ self.keys.T).max(dim=1)
        near = (best.values >= self.method.similarity).tolist()
        return [i if ok else None for i, ok in zip(best.indices.tolist(), near, strict=True)]

    def _text(self, prompt: str, number: int | None) -> str:
        """The statement in front of a prompt, if there is one and the model has room for it."""
        if number is None:
            return ""
        one = self.statements[number]
        text = f"{one.text} {one.target}. "
        length = len(tokenise(self.lm, [text + prompt]).ids[0])
        return text if length + ROOM <= self.lm.max_positions else ""


@torch.no_grad()
def end_states(
    lm: LanguageModel, texts: Sequence[str], batch_tokens: int = 4_096
) -> Float[Tensor, "n d_model"]:
    """The last block's output at the last token of each text, on the model's device."""
    last, ids = lm.n_layers - 1, tokenise(lm, texts).ids if texts else []
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found = torch.zeros(len(ids), lm.config.hidden_size, device=lm.device)
    for part in chunks([len(ids[i]) for i in order], batch_tokens):
        rows = order[part]
        call = observe(lm, padded(lm, [ids[i] for i in rows]), {last: lm.block(last)}, last=last)
        ends = torch.tensor([len(ids[i]) - 1 for i in rows], device=lm.device)
        hidden = call[last].hidden.to(lm.device)
        found[rows] = at_least_float32(hidden[torch.arange(len(rows)), ends]).to(found)
    return found


def statements(memory: dict[str, Tensor]) -> list[Statement]:
    """The statements that a state's memory holds, in the order of their first edit."""
    if EDITS not in memory:
        return []
    stored = json.loads(bytes(memory[EDITS].tolist()).decode())
    return [Statement(*one) for one in stored]


def _as_bytes(edits: list[Statement]) -> Tensor:
    """Statements as the bytes of a JSON text, for a state, which holds tensors only."""
    return torch.tensor(list(json.dumps(edits).encode()), dtype=torch.uint8)
