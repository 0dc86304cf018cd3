"""What the tests of the loop share: every method with parameters that suit a tiny model."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_plan

from seqedit.editing.contract import EditMethod
from seqedit.editing.state import EditPlan
from seqedit.lm.fingerprint import fingerprint
from seqedit.lm.model import LanguageModel
from seqedit.lm.weights import read_weight
from seqedit.methods.catalogue import CATALOGUE, METHODS, method_parameters
from seqedit.methods.kinds.codebook import Codebook
from seqedit.methods.kinds.hypernetwork import Hypernetwork, save_hypernetwork

every_method = pytest.mark.parametrize("name", METHODS)

TOLD = {"in_context", "in_context_oracle"}
"""Methods that learn nothing: the model is told."""
BESIDE = {"grace"} | TOLD
"""Methods whose edits are not in the weights."""


FOLDER = tempfile.TemporaryDirectory()  # holds networks; removed at exit


def network_for(lm: LanguageModel) -> str:
    """The file of a network, not the identity, for layers 0 and 1 of a tiny model."""
    path = Path(FOLDER.name) / f"{fingerprint(lm)}.safetensors"
    if not path.exists():
        W = read_weight(lm, 0)
        generator = torch.Generator().manual_seed(2)
        network = Hypernetwork((0, 1), (W.shape[1], W.shape[0]), rank=4, blocks=2, step=1e-2)
        with torch.no_grad():
            for parameter in (network.A, network.B, network.shift):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        save_hypernetwork(path, network, lm)
    return str(path)


def method_and_plan(lm: LanguageModel, name: str) -> tuple[EditMethod, EditPlan]:
    """A method with its catalogue's test parameters, and a plan that suits it.

    The plan edits layers 0 and 1, or layer 1 alone where the method edits only one.
    """
    network: dict[str, Any] = (
        {"network": network_for(lm)} if "network" in method_parameters(name) else {}
    )
    method = METHODS[name](**CATALOGUE[name].test, **network)
    one_layer = method.one_at_a_time or isinstance(method, Codebook)
    return method, build_plan(lm, layers=(1,) if one_layer else (0, 1))


def weights(lm: LanguageModel) -> dict[str, torch.Tensor]:
    """A copy of every tensor of the model."""
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether two such copies are equal bit for bit."""
    if left.keys() != right.keys():
        return False
    return all(torch.equal(left[name], right[name]) for name in left)
