"""Formulas for the memory and disk space of a run, in bytes.

Memory on the device is the sum of what is there throughout a run (weights, float32 masters,
solvers) and the largest of the stages that come one at a time. `tests/test_plan.py` compares the
formulas with tensors that are allocated.
"""

from .shapes import Shape
from .work import Texts, Work

DOUBLE, SINGLE = 8, 4
"""Bytes of a number in float64 and in float32."""


def moments_bytes(shape: Shape, work: Work) -> int:
    """Second moments of one layer in float32, in a file or in memory."""
    kept = round(work.removed * shape.d_ff) if work.compact else shape.d_ff
    return SINGLE * shape.d_ff * kept


def solver_bytes(shape: Shape, work: Work) -> int:
    """The solver of one layer, throughout a run.

    It holds the eigenvectors above τ, or those below if they are fewer; and for a price that is a
    matrix the metric and its factor.
    """
    k = round(work.removed * shape.d_ff)
    thin = DOUBLE * shape.d_ff * min(k, shape.d_ff - k) if work.projects else 0
    return thin + (2 * DOUBLE * shape.d_ff**2 if work.dense else 0)


def history_bytes(shape: Shape, work: Work) -> int:
    """The history of one layer at the end of a run, in the CPU's memory.

    It holds the keys in float32 and, unless they are more than d_ff, their Gram matrix in float64.
    """
    gram = DOUBLE * work.edits**2 if work.keeps_history and work.edits <= shape.d_ff else 0
    return SINGLE * shape.d_ff * work.edits + gram


def solve_bytes(shape: Shape, work: Work) -> int:
    """Temporary memory of solving one layer in the last round.

    The keys of the round are there in float64 six times, and the update twice.
    """
    past = work.edits if work.keeps_history else 0
    return (
        DOUBLE * shape.d_ff * (6 * work.batch_size + past)
        + SINGLE * shape.d_ff * past
        + 3 * DOUBLE * past**2
        + (DOUBLE + 3 * SINGLE) * shape.d_model * shape.d_ff
    )


def activation_bytes(shape: Shape, work: Work, texts: Texts) -> dict[str, float]:
    """Temporary memory of one step of target optimisation, by purpose.

    As many requests run together as fit into `batch_tokens`. Attention's keys and values of whole
    rows are kept, and copied with those of the tails inserted. A tail token keeps about
    8 d_model + 7 d_ff numbers per block for the backward pass, 4 d_ff if the MLP is gated. Logits
    are held in float32 four times.
    """
    per = (texts.contexts + 1) * texts.row
    n = min(work.batch_size, max(1, int(work.batch_tokens / per)))
    size, above = work.dtype.itemsize, shape.n_layers - work.layers[-1] - 1
    rows, tails = n * (texts.contexts + 1), n * (texts.contexts * texts.tail + 1)
    numbers = 8 * shape.d_model + (4 if shape.gated else 7) * shape.d_ff  # of a token in a block
    return {
        "keys and values": 2 * size * rows * texts.row * 2 * shape.kv_width * above,
        "blocks": size * tails * above * numbers,
        "logits": 4 * SINGLE * n * (texts.contexts * texts.target + 1) * shape.vocabulary,
    }


def standing_bytes(shape: Shape, work: Work) -> dict[str, int]:
    """Memory on the device throughout a run, by purpose."""
    edited, matrix = len(work.layers), shape.d_model * shape.d_ff
    return {
        "weights": work.dtype.itemsize * shape.parameters,
        "float32 masters": SINGLE * matrix * edited if work.dtype.itemsize < SINGLE else 0,
        "solvers": edited * solver_bytes(shape, work),
    }


def passing_bytes(shape: Shape, work: Work, texts: Texts) -> dict[str, float]:
    """Temporary memory on the device of each stage; the stages come one at a time."""
    edited, square, matrix = len(work.layers), shape.d_ff**2, shape.d_model * shape.d_ff
    if work.compact:
        preparing = 3 * moments_bytes(shape, work)
    else:
        preparing = (4 if work.projects else 3) * DOUBLE * square
    return {
        "target optimisation": sum(activation_bytes(shape, work, texts).values()),
        "solving a layer": solve_bytes(shape, work),
        "preparing a layer": preparing,
        "observing a layer": 3 * moments_bytes(shape, work) + 4 * DOUBLE * matrix,
        "computing second moments": edited * DOUBLE * square
        + 2 * SINGLE * square
        + 2 * SINGLE * work.batch_tokens * shape.d_ff,
    }


def cpu_bytes(shape: Shape, work: Work) -> dict[str, int]:
    """Memory of the CPU at the end of a run, by purpose."""
    edited, matrix = len(work.layers), shape.d_model * shape.d_ff
    return {
        "second moments": edited * moments_bytes(shape, work),
        "original matrices": SINGLE * matrix * edited,
        "history": edited * history_bytes(shape, work),
    }


def disk_bytes(shape: Shape, work: Work) -> dict[str, int]:
    """Disk space of the files of a run, by file."""
    edited, matrix = len(work.layers), shape.d_model * shape.d_ff
    return {
        "weights": work.dtype.itemsize * shape.parameters,
        "second moments": edited * moments_bytes(shape, work),
        "checkpoint of second moments": edited * DOUBLE * shape.d_ff**2,
        "record": SINGLE * matrix * edited,
        "checkpoint of the run": 2 * SINGLE * matrix * edited + edited * history_bytes(shape, work),
    }
