"""The smallest problem on which methods differ: two key directions, one output."""

import torch

from ..editing.contract import EditMethod
from .kinds.least_squares import LeastSquares
from .kinds.locate_then_edit import LocateThenEdit

C = torch.diag(torch.tensor([1.0, 0.01], dtype=torch.float64))
"""Second moment: preserved keys use the first direction a hundred times as much as the second."""
K = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
"""The edit's key uses both directions alike."""
R = torch.tensor([[2.0]], dtype=torch.float64)
"""The output must grow by 2."""
PAST = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
"""The key of an earlier edit uses the second direction only."""


def example_update(method: EditMethod) -> list[float]:
    """What a method adds to a 1 × 2 matrix, rounded to three digits.

    The answer at the edit's key grows by the sum of both entries. The first entry disturbs
    preserved keys; the second one disturbs the earlier edit.

    Raises:
        TypeError: the method does not solve for its update.
    """
    if not isinstance(method, LeastSquares):
        raise TypeError(f"{method.name} does not solve for its update")
    solver, past = method.solver(C), PAST if method.history else None
    if isinstance(method, LocateThenEdit) and method.neurons:
        update = solver.update_neurons(K, R, method.neurons(K), past)
    else:
        update = solver.update(K, R, past)
    return [round(value, 3) for value in update[0].tolist()]
