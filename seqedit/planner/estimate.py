r"""What a run will take: memory, time and disk, by formulas, before anything is loaded (`seqedit plan`).

With n new and N past edits, d = d_ff, m = d_model, k directions of C above τ, T context templates, and texts as `Texts`
has them, floating-point operations are (a product of a×b and b×c is 2abc)

* a block on t tokens that see s: 2t · (entries of its matrices) + 4ts · (width of attention);
* targets, of each request: one pass of all rows through all blocks; then in each step the T tails and one token of the
  KL prompt through the blocks above the edited ones, forward and backward (the weights get no gradient, so backward
  costs as much again), and the head at T · target + 1 places;
* keys: T rows up to the subject's end through the edited blocks, which run twice, and those below;
* a solve: thin, 4dk for each column that is projected, three times n columns, and 2dN(2n) + 2Nnd + 4dn² + 2mdn for
  history and gain; with a metric as wide as d the projection is two triangular solves, 2d²;
* preparing a layer: an eigendecomposition, about 9d³ (null space of a whole C), or a Cholesky factor, d³/3;
* second moments: a pass over their tokens, and 2d² for each token and layer.

Not counted are the singular values that are observed after a round. Decompositions and solves run in float64, which
many GPUs do at a small fraction of the rate of half precision.

Memory is what stands on the device throughout (weights, masters, solvers) and the largest of what comes and goes.
`tests/test_plan.py` compares the formulas with what runs: tolerances stand there.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..methods.locate_then_edit import LocateThenEdit
from .shapes import Shape

DOUBLE, SINGLE = 8, 4


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Mean tokens of a request; defaults were measured on 500 CounterFact records with GPT-2's tokenizer.

    Attributes:
        prompt: of the prompt with its subject; subject_end: of it up to the subject's last token.
        target: of the new object; kl: of the KL prompt up to the subject's last token.
        context: of a context template before the prompt; contexts: number of templates, the bare one included.
        evaluated: of a prompt for evaluation; evaluations: such prompts of a request, each with two continuations.
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
        """Tokens from the subject's last to the one that tells the target's last."""
        return self.prompt - self.subject_end + self.target

    @property
    def row(self) -> float:
        """Longest row of a request."""
        return self.context + self.prompt + self.target - 1


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done.

    Attributes:
        removed: share of the directions of C above τ.
        compact: second moments come in their compact form, with no more than these directions.
        moments_tokens: tokens that C is read from.
    """

    method: LocateThenEdit
    layers: tuple[int, ...]
    edits: int
    batch_size: int
    dtype: torch.dtype = torch.float32
    steps: int = 25
    removed: float = 0.3
    compact: bool = False
    moments_tokens: int = 100_000_000
    batch_tokens: int = 16_384

    def __post_init__(self):
        if not isinstance(self.method, LocateThenEdit):
            raise ValueError(
                f"method: {self.method.name} is none of the locate-then-edit methods that these formulas "
                "are about"
            )
        if self.compact and (self.dense or not self.method.directions):
            raise ValueError(
                f"method: {self.method.name} prices movement in every direction and takes no compact "
                "second moments"
            )

    @property
    def dense(self) -> bool:
        """Whether the price is a matrix as wide as d_ff."""
        return callable(self.method.price)


def block_flops(shape: Shape, tokens: float, seen: float) -> float:
    return 2 * tokens * shape.block + 4 * tokens * seen * shape.width


def target_flops(shape: Shape, work: Work, texts: Texts, n: int) -> float:
    """Of n requests, if no target stops early."""
    T, above = texts.contexts, shape.n_layers - work.layers[-1] - 1
    sweep = n * (T * (texts.prompt + texts.target - 1) + texts.kl) + 2 * texts.row
    tails, places = n * (T * texts.tail + 1), n * (T * texts.target + 1)
    one_pass = (
        (above - 1) * block_flops(shape, tails, texts.row)
        + block_flops(shape, places, texts.row)
        + 2 * places * shape.vocabulary * shape.d_model
    )
    return shape.n_layers * block_flops(shape, sweep, texts.row) + 2 * work.steps * one_pass


def key_flops(shape: Shape, work: Work, texts: Texts, n: int) -> float:
    """Of n requests, one sweep over the edited layers, residuals at the last one included."""
    last, edited = work.layers[-1], len(work.layers)
    rows = n * texts.contexts * texts.subject_end * (last + edited)
    bare = n * texts.subject_end * sum(last - layer + 1 for layer in work.layers)
    whole = (
        2 * (texts.context + texts.subject_end) * shape.n_layers
    )  # one row through the model finds its shapes
    return block_flops(shape, rows + bare + whole, texts.context + texts.subject_end)


def solve_flops(shape: Shape, work: Work, n: int, past: int) -> float:
    """Of one layer in one round; beyond `Solver.dense_from` keys the plain form."""
    d, m = shape.d_ff, shape.d_model
    k = work.removed * d if work.method.directions else 0
    history = past if work.method.history else 0
    if history and history + n > d:
        r = d - k
        return (
            2 * d * d * (history + n)
            + 2 * d * r * (d + r)
            + r**3 / 3
            + 2 * r * r * n
            + 2 * m * d * (n + r)
        )
    project = 2 * d * d if work.dense else 4 * d * k  # of one column
    flops = project * n + 4 * d * n * n + 2 * m * d * n + n**3 / 3
    if work.method.history:
        flops += 2 * project * n + 2 * 3 * d * history * n + 2 * history**2 * n + history**3 / 3
    return flops


def prepare_flops(shape: Shape, work: Work) -> float:
    """Of one layer, once in a run."""
    decomposed = work.method.directions and not work.compact
    return (9 * shape.d_ff**3 if decomposed else 0) + (shape.d_ff**3 / 3 if work.dense else 0)


def moments_bytes(shape: Shape, work: Work) -> int:
    """Of one layer's second moments in float32, as they are stored and held."""
    return SINGLE * shape.d_ff * (round(work.removed * shape.d_ff) if work.compact else shape.d_ff)


def moments_flops(shape: Shape, work: Work, length: int = 512) -> float:
    """Of all edited layers, once for a model; documents of `length` tokens on average."""
    passes = (work.layers[-1] + 1) * block_flops(shape, work.moments_tokens, length / 2)
    return passes + 2 * shape.d_ff**2 * work.moments_tokens * len(work.layers)


def evaluation_flops(shape: Shape, work: Work, texts: Texts) -> float:
    """Of all edits, before the first round and at the end."""
    rows = 2 * 2 * texts.evaluations * work.edits
    tokens = rows * (texts.evaluated + texts.target - 1)
    head = 2 * rows * texts.target * shape.vocabulary * shape.d_model
    return shape.n_layers * block_flops(shape, tokens, texts.evaluated) + head


def solver_bytes(shape: Shape, work: Work) -> int:
    """Of one layer, throughout: eigenvectors above τ, or those below if they are fewer; metric and factor."""
    k = round(work.removed * shape.d_ff)
    thin = DOUBLE * shape.d_ff * min(k, shape.d_ff - k) if work.method.directions else 0
    return thin + (2 * DOUBLE * shape.d_ff**2 if work.dense else 0)


def history_bytes(shape: Shape, work: Work) -> int:
    """Of one layer at the end, in the CPU's memory: keys in float32, their Gram matrix in float64."""
    gram = DOUBLE * work.edits**2 if work.method.history and work.edits <= shape.d_ff else 0
    return SINGLE * shape.d_ff * work.edits + gram


def solve_bytes(shape: Shape, work: Work) -> int:
    """Of one layer's last round, coming and going: keys in float64 six times over, history, the update twice."""
    past = work.edits if work.method.history else 0
    return (
        DOUBLE * shape.d_ff * (6 * work.batch_size + past)
        + SINGLE * shape.d_ff * past
        + 3 * DOUBLE * past**2
        + (DOUBLE + 3 * SINGLE) * shape.d_model * shape.d_ff
    )


def activation_bytes(shape: Shape, work: Work, texts: Texts) -> dict[str, float]:
    """Of a step of target optimisation on as many requests as run together.

    Attention's keys and values of whole rows are kept, and copied with the tails put in; a tail token leaves about
    8 d_model + (gated: 4, else 7) d_ff numbers in each block for the way back; logits are held in float32 four times.
    """
    per = (texts.contexts + 1) * texts.row
    n = min(work.batch_size, max(1, int(work.batch_tokens / per)))
    size, above = work.dtype.itemsize, shape.n_layers - work.layers[-1] - 1
    rows, tails = n * (texts.contexts + 1), n * (texts.contexts * texts.tail + 1)
    return {
        "keys and values": 2 * size * rows * texts.row * 2 * shape.kv_width * above,
        "blocks": size
        * tails
        * above
        * (8 * shape.d_model + (4 if shape.gated else 7) * shape.d_ff),
        "logits": 4 * SINGLE * n * (texts.contexts * texts.target + 1) * shape.vocabulary,
    }


def estimate(shape: Shape, work: Work, texts: Texts, rate: float | None = None) -> dict[str, Any]:
    """Memory and disk in bytes, work in floating-point operations, and seconds at `rate` of them a second.

    Raises:
        ValueError: a layer is out of range.
    """
    if not work.layers or not all(0 <= layer < shape.n_layers for layer in work.layers):
        raise ValueError(
            f"layers {list(work.layers)}: the model has layers 0 to {shape.n_layers - 1}"
        )
    edited, square = len(work.layers), shape.d_ff**2
    matrix = shape.d_model * shape.d_ff
    standing = {
        "weights": work.dtype.itemsize * shape.parameters,
        "float32 masters": SINGLE * matrix * edited if work.dtype.itemsize < SINGLE else 0,
        "solvers": edited * solver_bytes(shape, work),
    }
    passing = {
        "target optimisation": sum(activation_bytes(shape, work, texts).values()),
        "solving a layer": solve_bytes(shape, work),
        "preparing a layer": 3 * moments_bytes(shape, work)
        if work.compact
        else (4 if work.method.directions else 3) * DOUBLE * square,
        "observing a layer": 3 * moments_bytes(shape, work) + 4 * DOUBLE * matrix,
        "computing second moments": edited * DOUBLE * square
        + 2 * SINGLE * square
        + 2 * SINGLE * work.batch_tokens * shape.d_ff,
    }
    history, moments = edited * history_bytes(shape, work), edited * moments_bytes(shape, work)
    rounds = -(-work.edits // work.batch_size)
    flops = {
        "targets": target_flops(shape, work, texts, work.edits),
        "keys": key_flops(shape, work, texts, work.edits),
        "solve": edited
        * sum(
            solve_flops(shape, work, work.batch_size, i * work.batch_size) for i in range(rounds)
        ),
        "prepare": edited * prepare_flops(shape, work),
        "evaluate": evaluation_flops(shape, work, texts),
        "second moments": moments_flops(shape, work),
    }
    run = sum(flops.values()) - flops["second moments"]
    gpu = sum(standing.values()) + max(v for name, v in passing.items() if "moments" not in name)
    return {
        "shape": asdict(shape),
        "rounds": rounds,
        "texts": asdict(texts),
        "memory": {
            "standing": standing,
            "passing": passing,
            "run": gpu,
            "second moments": standing["weights"] + passing["computing second moments"],
        },
        "cpu_memory": {
            "second moments": moments,
            "original matrices": SINGLE * matrix * edited,
            "history": history,
        },
        "disk": {
            "weights": work.dtype.itemsize * shape.parameters,
            "second moments": moments,
            "checkpoint of second moments": edited * DOUBLE * square,
            "record": SINGLE * matrix * edited,
            "checkpoint of the run": 2 * SINGLE * matrix * edited + history,
        },
        "flops": flops | {"run": run, "round": run / rounds},
        "seconds": {
            name: value / rate
            for name, value in (flops | {"run": run, "round": run / rounds}).items()
        }
        if rate
        else None,
    }
