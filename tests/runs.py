"""What the tests of the loop share: a setting for every method, and whole models compared bit for bit."""

import tempfile
from pathlib import Path

import pytest
import torch
from conftest import build_plan

from seqedit.lm.fingerprint import fingerprint
from seqedit.lm.weights import read_weight
from seqedit.methods.catalogue import CATALOGUE, METHODS, method_parameters
from seqedit.methods.kinds.codebook import Codebook
from seqedit.methods.kinds.hypernetwork import Hypernetwork, save_hypernetwork

every_method = pytest.mark.parametrize("name", METHODS)


FOLDER = tempfile.TemporaryDirectory()  # of networks, gone at exit


def network_for(lm) -> str:
    """File of a network that is not the identity, for layers 0 and 1 of a tiny model."""
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


def method_and_plan(lm, name):
    network = {"network": network_for(lm)} if "network" in method_parameters(name) else {}
    method = METHODS[name](**CATALOGUE[name].test, **network)
    return method, build_plan(
        lm, layers=(1,) if method.one_at_a_time or isinstance(method, Codebook) else (0, 1)
    )


def weights(lm) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )
