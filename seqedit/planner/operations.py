r"""Formulas for the floating-point operations of a run.

A product of an a×b and a b×c matrix is 2abc operations. With n new and N past edits, d = d_ff,
m = d_model, k directions of C above τ, T context templates, and texts as `Texts` describes them:

* A block on t tokens that attend to s tokens: 2t · (entries of its matrices) + 4ts · (width of
  attention).
* Targets: for each request one pass of all rows through all blocks. Then in each step the T tails
  and one token of the KL prompt pass the blocks above the edited ones forward and backward, and the
  head is applied at T · target + 1 places. Attention pads tails to one length. The weights get no
  gradient, so that backward costs as much as forward.
* Keys: T rows, up to the subject's end, pass the edited blocks twice and those below once.
* A solve in the space of edits: 4dk for each projected column, of which there are 3n, and
  2dN(2n) + 2Nnd + 4dn² + 2mdn for history and gain. With a d × d metric each projection is two
  triangular solves, 2d².
* Preparing a layer: an eigendecomposition, about 9d³ (null space of a whole C), or a Cholesky
  factor, d³/3.
* Second moments: a pass over their tokens, and 2d² for each token and layer.

The singular values that are observed after a round are not counted. Decompositions and solves run
in float64, which on many GPUs is much slower than half precision. `tests/test_plan.py` compares the
formulas with operations that torch counts.
"""

from .shapes import Shape
from .work import Texts, Work


def block_flops(shape: Shape, tokens: float, seen: float, attending: float | None = None) -> float:
    """Operations of one block, forward.

    Args:
        shape: of the model.
        tokens: number of tokens that pass the block.
        seen: number of tokens to which each of them attends.
        attending: number of tokens in attention, padding included; `tokens` unless given.
    """
    attending = tokens if attending is None else attending
    return 2 * tokens * shape.block + 4 * attending * seen * shape.width


def target_flops(shape: Shape, work: Work, texts: Texts, n: int) -> float:
    """Operations of optimising the targets of n requests, if no target stops early."""
    T, above = texts.contexts, shape.n_layers - work.layers[-1] - 1
    sweep = n * (T * (texts.prompt + texts.target - 1) + texts.kl) + 2 * texts.row
    tails, places = n * (T * texts.tail + 1), n * (T * texts.target + 1)
    rows = n * (T + 1)  # attention lays out the tails of all rows in a rectangle
    one_pass = (
        (above - 1) * block_flops(shape, tails, texts.row, rows * texts.tail)
        + block_flops(shape, places, texts.row, rows * texts.target)
        + 2 * places * shape.vocabulary * shape.d_model
    )
    return shape.n_layers * block_flops(shape, sweep, texts.row) + 2 * work.steps * one_pass


def key_flops(shape: Shape, work: Work, texts: Texts, n: int) -> float:
    """Operations of reading the keys of n requests at all edited layers, and their residuals."""
    last, edited = work.layers[-1], len(work.layers)
    rows = n * texts.contexts * texts.subject_end * (last + edited)
    bare = n * texts.subject_end * sum(last - layer + 1 for layer in work.layers)
    # one row passes the whole model to find its shapes
    whole = 2 * (texts.context + texts.subject_end) * shape.n_layers
    return block_flops(shape, rows + bare + whole, texts.context + texts.subject_end)


def solve_flops(shape: Shape, work: Work, n: int, past: int) -> float:
    """Operations of solving one layer in one round.

    For more than d_ff keys the plain form is counted, as `Solver` uses it.

    Args:
        shape: of the model.
        work: the run.
        n: number of new edits.
        past: number of past edits.
    """
    d, m = shape.d_ff, shape.d_model
    k = work.removed * d if work.projects else 0
    history = past if work.keeps_history else 0
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
    if work.keeps_history:
        flops += 2 * project * n + 2 * 3 * d * history * n + 2 * history**2 * n + history**3 / 3
    return flops


def prepare_flops(shape: Shape, work: Work) -> float:
    """Operations of preparing the solver of one layer, which happens once per run."""
    decomposed = work.projects and not work.compact
    return (9 * shape.d_ff**3 if decomposed else 0) + (shape.d_ff**3 / 3 if work.dense else 0)


def moments_flops(shape: Shape, work: Work, length: float = 512) -> float:
    """Operations of computing the second moments of all edited layers, once per model.

    Args:
        shape: of the model.
        work: the run.
        length: mean number of tokens of a document.
    """
    passes = (work.layers[-1] + 1) * block_flops(shape, work.moments_tokens, length / 2)
    return passes + 2 * shape.d_ff**2 * work.moments_tokens * len(work.layers)


def evaluation_flops(shape: Shape, work: Work, texts: Texts) -> float:
    """Operations of evaluating all edits twice: before the first round and at the end."""
    rows = 2 * 2 * texts.evaluations * work.edits
    tokens = rows * (texts.evaluated + texts.target - 1)
    head = 2 * rows * texts.target * shape.vocabulary * shape.d_model
    return shape.n_layers * block_flops(shape, tokens, texts.evaluated) + head


def run_flops(shape: Shape, work: Work, texts: Texts) -> dict[str, float]:
    """Operations of a whole run by stage, and of the second moments it needs."""
    n, edited = work.batch_size, len(work.layers)
    solve = sum(solve_flops(shape, work, n, i * n) for i in range(work.rounds))
    return {
        "targets": target_flops(shape, work, texts, work.edits),
        "keys": key_flops(shape, work, texts, work.edits),
        "solve": edited * solve,
        "prepare": edited * prepare_flops(shape, work),
        "evaluate": evaluation_flops(shape, work, texts),
        "second moments": moments_flops(shape, work),
    }
