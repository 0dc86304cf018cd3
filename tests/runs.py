"""What the tests of the loop share: a setting for every method, and whole models compared bit for bit."""

import pytest
import torch
from conftest import build_plan

from seqedit.methods import METHODS

# Parameters that suit random models: moments with eigenvalues around 1.
SETTINGS = {"rome": {}, "r_rome": {}, "memit": {"lam": 0.5}, "memit_seq": {"lam": 0.5},
            "alphaedit": {"threshold": 0.9, "l2": 0.5}, "evoedit": {"threshold": 0.9, "l2": 0.5},
            "emmet": {"lam": 1.0, "ridge": 0.5}, "encore": {"lam": 0.5, "gamma": 0.1, "patience": 3},
            "nse": {"lam": 0.5, "mass": 0.8, "done_below": 1e-3, "hopeless_from": 1e3},
            "nse_released": {"lam": 0.5, "mass": 0.8, "done_below": 1e-3, "hopeless_from": 1e3},
            "memit_rect": {"lam": 0.5, "share": 0.4}, "memit_prune": {"lam": 0.5, "alpha": 1.5}}
every_method = pytest.mark.parametrize("name", SETTINGS)


def method_and_plan(lm, name):
    method = METHODS[name](**SETTINGS[name])
    return method, build_plan(lm, layers=(1,) if method.one_at_a_time else (0, 1))


def weights(lm) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
