"""Breadth-first fine-tuning: LocFT-BF."""

from typing import cast, get_args

from . import ranges
from .entry import method
from .kinds.epochs import FineTuningInEpochs, Order


@method(
    source="LocFT-BF (2509.22072); code: ICT-STAR/LocFT, MIT",
    search={
        "layers": ranges.Choice(((1,), (2,), (3,), (4,), (5,))),
        "lr": ranges.Range(1e-5, 3e-2),
        "target_end": "eos",
    },
    test={"lr": 1e-2, "epochs": 3},
    colour="#7b4fff",
    oracle="test_epochs.py::test_locft_bf_is_adam_over_shuffled_batches",
)
def locft_bf(
    lr: float = 5e-4,
    epochs: int = 25,
    batch: int = 100,
    stop_loss: float = 1e-2,
    order: str = "breadth",
    replay: int = 0,
) -> FineTuningInEpochs:
    r"""Adam on one late matrix, with mini-batches from all requests of a round in turn.

    .. math::
        \min_W\; -\frac1N \sum_i \frac1{T_i} \sum_t \log p(y_{i,t} \mid x_i, y_{i,<t})

    A pass goes over all requests in a new order before any of them is learned a second time. The
    paper has all edits in one round, and puts the end token after each target: `target_end` "eos".

    Departs from the paper, which has no rounds: what is passed over is a round, together with
    `replay` edits of earlier ones.

    Args:
        lr: Adam's step, in entries of the matrix (published: 5e-4).
        epochs: largest number of passes over a round (published: 25).
        batch: requests of a mini-batch (released: 100).
        stop_loss: mean loss below which a mini-batch makes no step and, of a whole pass, a round
            ends (released: 1e-2).
        order: "breadth" as published; "depth" makes all passes over one mini-batch before the next.
        replay: number of earlier edits, drawn at random, that each round learns again; 0 for none,
            and for all any number that is at least theirs.

    Example:
        >>> locft_bf().order, locft_bf(order="depth", batch=1).order
        ('breadth', 'depth')
    """
    if order not in get_args(Order):
        raise ValueError(f"order = {order!r}: it must be one of {', '.join(get_args(Order))}")
    return FineTuningInEpochs(
        name="LocFT-BF",
        lr=lr,
        epochs=epochs,
        batch=batch,
        stop_loss=stop_loss,
        order=cast(Order, order),
        replay=replay,
    )
