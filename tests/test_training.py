"""Training of the embedded model: deterministic, interruptible, documents apart; its optimiser."""

import json
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

import seqedit.world.train as training
from seqedit.lm.fingerprint import identity
from seqedit.lm.load import load_model
from seqedit.world.corpus import Corpus
from seqedit.world.facts import build_world
from seqedit.world.muon import Muon, orthogonalise
from seqedit.world.tokenizer import train_tokenizer
from seqedit.world.train import (
    TrainConfig,
    batch_at,
    document_mask,
    new_model,
    train,
)

SMALL = TrainConfig(
    layers=2, width=16, heads=2, inner=32, vocabulary=400, length=64, batch=2, steps=6, warmup=2
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(build_world())


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return train_tokenizer(corpus, SMALL.vocabulary, documents=300)


@pytest.fixture
def quick(monkeypatch, tokenizer):
    """Training with a tokenizer that is there already."""
    monkeypatch.setattr(training, "train_tokenizer", lambda *_, **__: tokenizer)


@pytest.fixture
def trained(quick, tmp_path):
    """Tensors and losses of a training that nothing interrupted."""
    train(tmp_path / "whole", SMALL, checkpoint_every=2)
    return content(tmp_path / "whole")


def content(folder):
    return load_file(folder / "model.safetensors"), json.loads(
        (folder / "training.json").read_text()
    )


def test_training_writes_what_recognises_the_model(trained, tmp_path):
    assert trained[1]["identity"] == identity(load_model(tmp_path / "whole", device="cpu"))


def equal(left, right) -> bool:
    return left[1] == right[1] and all(
        torch.equal(left[0][name], right[0][name]) for name in left[0] | right[0]
    )


def test_training_is_deterministic(trained, tmp_path):
    torch.manual_seed(1)  # the global state does not matter
    train(tmp_path / "again", SMALL, checkpoint_every=4)
    assert equal(content(tmp_path / "again"), trained)
    train(tmp_path / "other", TrainConfig(**{**SMALL.__dict__, "seed": 1}))
    assert not equal(content(tmp_path / "other"), trained)
    start = new_model(SMALL).half().state_dict()
    assert any(not torch.equal(W, start[name]) for name, W in trained[0].items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "other", "whole"]
    assert load_model(tmp_path / "again", device="cpu").n_layers == 2


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("at", [1, 3, 4])
def test_training_resumes(trained, tmp_path, monkeypatch, at):
    """Interrupted before a checkpoint, between two, and at one: those of an uninterrupted one."""

    def until(step, *rest):
        if step == at:
            raise InterruptedError
        return batch_at(step, *rest)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(training, "batch_at", until)
        with pytest.raises(InterruptedError):
            train(out, SMALL, checkpoint_every=2)
    assert not out.exists() and (tmp_path / "out.training" / "checkpoint.json").exists() == (at > 1)
    seen = []
    monkeypatch.setattr(
        training, "batch_at", lambda step, *rest: seen.append(step) or batch_at(step, *rest)
    )
    train(out, SMALL, checkpoint_every=2)
    assert seen == list(range(at // 2 * 2, 6)) and equal(content(out), trained)
    assert not (tmp_path / "out.training").exists()


def test_checkpoint_of_other_settings(trained, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            training, "batch_at", lambda step, *rest: 1 / 0 if step == 2 else batch_at(step, *rest)
        )
        with pytest.raises(ZeroDivisionError):
            train(tmp_path / "out", SMALL, checkpoint_every=2)
    with pytest.raises(ValueError, match="out.training holds a checkpoint of other settings"):
        train(
            tmp_path / "out", TrainConfig(**{**SMALL.__dict__, "lr_rest": 1e-3}), checkpoint_every=2
        )


def test_packed_documents_are_as_if_alone(corpus, tokenizer):
    """A packed document gets the logits that it gets alone, wherever its positions start."""
    model = new_model(SMALL).eval()
    tokens, positions = batch_at(0, corpus, tokenizer, SMALL)
    assert tokens.shape == positions.shape == (SMALL.batch, SMALL.length)
    with torch.no_grad():
        together = model(
            tokens, position_ids=positions, attention_mask=document_mask(positions)
        ).logits
        leaking = model(tokens, position_ids=positions).logits
        count = 0
        for row in range(SMALL.batch):
            starts = [
                0,
                *(
                    i
                    for i in range(1, SMALL.length)
                    if positions[row, i] != positions[row, i - 1] + 1
                ),
            ]
            for start, end in pairwise([*starts, SMALL.length]):
                alone = model(
                    tokens[row : row + 1, start:end],
                    position_ids=positions[row : row + 1, start:end],
                ).logits[0]
                torch.testing.assert_close(together[row, start:end], alone, rtol=1e-4, atol=1e-5)
                count += 1
    assert count > SMALL.batch and not torch.allclose(together, leaking, atol=1e-3)


def test_document_mask():
    """Two documents, the second starting at position 7."""
    mask = document_mask(torch.tensor([[0, 1, 7, 8, 9]]))
    expected = torch.block_diag(torch.ones(2, 2).tril(), torch.ones(3, 3).tril()).bool()
    assert torch.equal(mask[0, 0], expected) and mask.shape == (1, 1, 5, 5)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (48, 16), (192, 768), (1, 9)])
def test_orthogonalise(shape):
    """Singular values end near one, directions stay, scale is forgotten."""
    G = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalise(G)
    values = torch.linalg.svdvals(found)
    assert found.shape == shape and 0.6 <= values.min() and values.max() <= 1.3
    U, _, V = torch.linalg.svd(G, full_matrices=False)
    torch.testing.assert_close(
        U.T @ found @ V.T, torch.diag(torch.diag(U.T @ found @ V.T)), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(orthogonalise(1000 * G), found, atol=1e-4, rtol=1e-3)


def test_muon_step():
    """Without momentum: the orthogonalised gradient times lr·√(rows/columns), after decay."""
    weight = torch.nn.Parameter(torch.randn(32, 8, generator=torch.Generator().manual_seed(0)))
    before, gradient = (
        weight.detach().clone(),
        torch.randn(32, 8, generator=torch.Generator().manual_seed(1)),
    )
    weight.grad = gradient.clone()
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(
        weight.detach(), before * 0.95 - 0.2 * orthogonalise(gradient), atol=1e-4, rtol=1e-4
    )
