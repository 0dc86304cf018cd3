"""The loss that targets minimise: its settings, and the texts on which it is measured.

What tokens an edit learns is decided here for all methods, those without targets included.

How the loss is computed, and what of it only once, is in `target_problem`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Float, Shaped
from torch import Tensor

from ..requests.request import EditRequest
from .model import LanguageModel
from .tokens import ContinuationRow, continuation_rows, fill, lookup_rows, marked


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """How targets are optimised; the defaults are the published values for GPT-J.

    Attributes:
        steps: largest number of forward passes; the last one only measures, so there are steps − 1
            updates.
        lr: Adam's step size, in residual-stream activations.
        clamp: limit of δ, ‖δ‖ ≤ clamp · ‖h‖.
        kl: weight of KL(p_δ ‖ p_0) at the subject's last token of `kl_prompt`.
        weight_decay: weight of ‖δ‖ / ‖h‖². The numerator is not squared, as in the released code.
        stop_loss: the optimisation of a request ends when its loss falls below this.
        kl_prompt: a neutral sentence about the subject, with "{}" in its place.
        target_separator: what stands between prompt and target while targets are sought; None for
            what stands there everywhere else. The released NSE has "" and measures with a space.
        target_end: what every method learns after the new object: "", nothing, as published, or
            "eos", the tokenizer's end token, with which an answer ends by itself, as in ordinary
            fine-tuning and LocFT (2509.22072). Measures never see it.
    """

    steps: int = 25
    lr: float = 0.5
    clamp: float = 0.75
    kl: float = 0.0625
    weight_decay: float = 0.5
    stop_loss: float = 0.05
    kl_prompt: str = "{} is a"
    target_separator: str | None = None
    target_end: Literal["", "eos"] = ""


class Anchors(NamedTuple):
    """Points that attract or repel the subject's last hidden state during the optimisation (BIRD).

    The loss of a request gains Σ_p weight_p · ‖h_s − point_p‖, where h_s is the output of the last
    block at the subject's last token of `kl_prompt`.

    Attributes:
        points: p points for each of n requests.
        weights: weight of each point; a negative one repels.
    """

    points: Float[Tensor, "n p d_model"]
    weights: Float[Tensor, "p"]

    def loss(self, hidden: Float[Tensor, "n d_model"]) -> Float[Tensor, "n"]:
        """Return the anchors' term of the loss of each request, given its h_s."""
        return (hidden[:, None] - self.points).norm(dim=2) @ self.weights

    def select(self, chosen: slice | Shaped[Tensor, "_"]) -> "Anchors":
        """The anchors of some requests, chosen by a slice, an index or a mask."""
        return self._replace(points=self.points[chosen])


class TargetRow(NamedTuple):
    """One of the texts on which the loss of a request is measured, cut to what the loss depends on.

    Attributes:
        ids: token ids. A prompt in its context comes with its target, without the target's last
            token, which is predicted but never read. The KL prompt ends at the subject's last
            token.
        position: of the subject's last token, where δ is added.
        target: the target's tokens, predicted at the last positions of `ids`; empty for the KL
            prompt.
    """

    ids: list[int]
    position: int
    target: tuple[int, ...]


def target_rows(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    templates: Sequence[str],
    config: TargetConfig,
) -> list[list[TargetRow]]:
    """Return the rows of each request: its prompt in every context template, then the KL prompt."""
    filled, subjects, suffixes = [], [], []
    for request in requests:
        filled += [*(fill(template, request) for template in templates), marked(config.kl_prompt)]
        suffixes += [_target_suffix(request, config)] * len(templates) + [""]
        subjects += [request.subject] * (len(templates) + 1)
    tokens, positions = lookup_rows(lm, filled, subjects, suffixes)
    end, rows = end_tokens(lm, config), []
    for i, (position, text, subject) in enumerate(zip(positions, filled, subjects, strict=True)):
        ids = tokens.ids[i]
        if i % (len(templates) + 1) == len(templates):  # the KL prompt
            rows.append(TargetRow(ids[: position + 1], position, ()))
        else:
            prompt_end = tokens.first_after(i, len(text.with_subject(subject)))
            start = max(prompt_end, position + 1)  # first token of the target
            whole = [*ids, *end]
            rows.append(TargetRow(whole[:-1], position, tuple(whole[start:])))
    per_request = len(templates) + 1
    return [rows[i : i + per_request] for i in range(0, len(rows), per_request)]


def _target_suffix(request: EditRequest, config: TargetConfig) -> str:
    """The target with what stands before it while targets are sought."""
    if config.target_separator is not None:
        return config.target_separator + request.target_new
    return request.continued(request.text, request.target_new)[len(request.text) :]


def learned_rows(
    lm: LanguageModel, requests: Sequence[EditRequest], config: TargetConfig
) -> list[ContinuationRow]:
    """The bare prompt of each request with the tokens that a method without targets learns."""
    return continuation_rows(
        lm,
        [request.text for request in requests],
        [request.target_new for request in requests],
        end_tokens(lm, config),
        separators=[request.joined_by for request in requests],
    )


def end_tokens(lm: LanguageModel, config: TargetConfig) -> list[int]:
    """The tokens that are learned after each new object, see `TargetConfig.target_end`.

    Raises:
        ValueError: the end token is asked for, and the tokenizer has none.
    """
    if not config.target_end:
        return []
    if lm.tokenizer.eos_token_id is None:
        raise ValueError(
            f"target_end = {config.target_end!r}: the tokenizer names no end token; put "
            '"eos_token" into its tokenizer_config.json, or leave target_end at ""'
        )
    return [lm.tokenizer.eos_token_id]
