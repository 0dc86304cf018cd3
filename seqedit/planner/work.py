"""What an estimate is made for: a method, layers, edits and the lengths of texts."""

from dataclasses import dataclass

import torch

from ..editing.contract import EditMethod
from ..methods.kinds.locate_then_edit import LocateThenEdit


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Mean numbers of tokens of a request's texts.

    The defaults were measured on 500 CounterFact records with GPT-2's tokenizer.

    Attributes:
        prompt: of the prompt with its subject.
        subject_end: of the prompt up to the subject's last token.
        target: of the new object.
        kl: of the KL prompt up to the subject's last token.
        context: of the longest context template before the prompt.
        contexts: number of context templates, including the bare one.
        evaluated: of a prompt for evaluation.
        evaluations: number of such prompts per request, each rated with two continuations.
    """

    prompt: float = 8.1
    subject_end: float = 5.0
    target: float = 1.0
    kl: float = 4.3
    context: float = 11.0
    contexts: int = 6
    evaluated: float = 9.8
    evaluations: int = 13

    @property
    def tail(self) -> float:
        """Tokens from the subject's last one to the one that predicts the target's last."""
        return self.prompt - self.subject_end + self.target

    @property
    def row(self) -> float:
        """Number of tokens of a request's longest row: context, prompt and target."""
        return self.context + self.prompt + self.target - 1


@dataclass(frozen=True, kw_only=True)
class Work:
    """The run to estimate.

    Attributes:
        method: a locate-then-edit method.
        layers: the edited layers, ascending.
        edits: number of requests.
        batch_size: number of requests per round.
        dtype: of the model's weights.
        steps: optimisation steps per target.
        removed: share of the directions of C with eigenvalues above τ.
        compact: whether second moments come in compact form, with these directions only.
        moments_tokens: number of tokens from which C is computed.
        batch_tokens: number of tokens that run together.

    Raises:
        ValueError: the formulas do not cover the method, or it takes no compact second moments.
    """

    method: EditMethod
    layers: tuple[int, ...]
    edits: int
    batch_size: int
    dtype: torch.dtype = torch.float32
    steps: int = 25
    removed: float = 0.3
    compact: bool = False
    moments_tokens: int = 100_000_000
    batch_tokens: int = 16_384

    def __post_init__(self) -> None:
        method = self._solved_method
        if self.compact and (self.dense or not self.projects):
            raise ValueError(
                f"method: {method.name} prices movement in every direction and takes "
                "no compact second moments"
            )

    @property
    def _solved_method(self) -> LocateThenEdit:
        """The method, if it is one that the formulas cover."""
        if not isinstance(self.method, LocateThenEdit):
            raise ValueError(
                f"method: {self.method.name} is none of the locate-then-edit methods, for which "
                "alone there are formulas"
            )
        return self.method

    @property
    def dense(self) -> bool:
        """Whether the price of movement is a d_ff × d_ff matrix rather than a number."""
        return callable(self._solved_method.price)

    @property
    def projects(self) -> bool:
        """Whether updates are confined to a null space."""
        return self._solved_method.directions is not None

    @property
    def keeps_history(self) -> bool:
        """Whether past keys enter the solve."""
        return bool(self._solved_method.history)

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return -(-self.edits // self.batch_size)
