"""What several tests of the mathematics share: random least-squares problems, sums of keys."""

import torch
from hypothesis import strategies as st

from seqedit.algebra.second_moment import SecondMoment


class Problem:
    """Random keys, residuals and metrics from one seed."""

    def __init__(self, seed: int, d_ff: int, d_model: int, n: int):
        self.generator = torch.Generator().manual_seed(seed)
        self.d_ff, self.d_model, self.n = d_ff, d_model, n
        self.K, self.R, self.M = self.random(d_ff, n), self.random(d_model, n), self.metric()

    def random(self, *shape) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def metric(self) -> torch.Tensor:
        Q, _ = torch.linalg.qr(self.random(self.d_ff, self.d_ff))
        spectrum = 10 ** (
            4 * torch.rand(self.d_ff, generator=self.generator, dtype=torch.float64) - 2
        )
        return (Q * spectrum) @ Q.T

    def basis(self, r: int) -> torch.Tensor:
        return torch.linalg.qr(self.random(self.d_ff, r))[0]


@st.composite
def problems(draw, fits: bool = False) -> Problem:
    """Problems of any shape; with `fits`, never more requests than key directions."""
    d_ff = draw(st.integers(2, 12))
    n = draw(st.integers(1, d_ff if fits else 15))
    return Problem(draw(st.integers(0, 2**32)), d_ff, draw(st.integers(1, 5)), n)


def accumulated(*batches) -> SecondMoment:
    """The moment of the keys of all batches, (n, d_ff) each."""
    moment = SecondMoment(batches[0].shape[1])
    for batch in batches:
        moment.update(batch)
    return moment
