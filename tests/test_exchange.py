"""Edits for other tools: folder, factors, adapter; taken off again; and what differs between two
models.
"""

import json

import pytest
import torch
from conftest import build_lm, relative
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from workspace import Workspace

from seqedit.algebra.low_rank import low_rank, round_off
from seqedit.exchange.difference import difference
from seqedit.exchange.factors import layer_edit, load_edits
from seqedit.lm.load import load_model
from seqedit.lm.weights import apply_update, read_weight
from seqedit.runs.records import load_weights

TEXT = "The mother tongue of André is French, and Zoë plays polo"


def edited(space, kind: str = "gpt2") -> Workspace:
    """The space with a run on a tiny model of that kind.

    Five edits at layers 0 and 1 of d_model 16.
    """
    if kind != "gpt2":
        space.model = space.folder / kind
        lm = build_lm(kind)
        lm.model.save_pretrained(space.model)
        lm.tokenizer.save_pretrained(space.model)
    assert (result := space.call()).exit_code == 0, result.stderr
    return space


def call(space, command: str, **options):
    result = space.call(command, **{"device": None} | options)
    assert result.exit_code == 0, result.stderr
    return result


def refused(space, command: str, *words: str, **options):
    result = space.call(command, **{"device": None} | options)
    line = result.stderr.strip().splitlines()[-1]
    assert (
        result.exit_code == 1 and line.startswith("error: ") and all(word in line for word in words)
    ), result.output
    assert not list(space.folder.rglob("*.part"))


def logits(model, lm) -> torch.Tensor:
    with torch.no_grad():
        return model(**lm.tokenizer(TEXT, return_tensors="pt")).logits


# ── factors ──


@pytest.mark.parametrize("writes", [1, 30, 300])
def test_numerical_rank_ignores_round_off(writes):
    """Rank-1 additions in float32 leave a matrix whose change has full rank exactly and rank
    `writes` numerically.
    """
    generator = torch.Generator().manual_seed(writes)
    W0 = torch.randn(320, 500, generator=generator)
    W = W0.clone()
    for _ in range(writes):
        W += (
            torch.randn(320, 1, generator=generator)
            @ torch.randn(1, 500, generator=generator)
            * 1e-2
        )
    update = W.double() - W0.double()
    assert torch.linalg.matrix_rank(update) == 320
    found = low_rank(update, round_off(W, writes))
    noise = round_off(W, writes) * 320**0.5  # no more than all directions full of it
    assert found.rank == writes and (found.product() - update).norm() <= noise
    assert (
        found.error == pytest.approx(relative(found.product(), update)) and 0 < found.error < 1e-4
    )


def test_an_update_of_nothing_has_rank_0():
    W = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    edit = layer_edit(W, W.clone(), 1)
    assert (
        edit.factors.rank == 0
        and edit.factors.error == 0
        and torch.equal(edit.undo(edit.apply(W)), W)
    )


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_applied_and_undone_is_bit_identical(size):
    """Also where the edit dwarfs the matrix and the sum has forgotten its last bits, zeros and
    signs.
    """
    generator = torch.Generator().manual_seed(0)
    W0 = torch.randn(24, 60, generator=generator) * torch.logspace(-9, 2, 60)
    W0[3] = 0
    W0[4] = -0.0
    W = W0 + size * torch.randn(24, 3, generator=generator) @ torch.randn(
        3, 60, generator=generator
    )
    edit = layer_edit(W0, W, 1)
    after = edit.apply(W0)
    assert relative(after, W) < 1e-6  # float32: the factors and one rounding
    back = edit.undo(after)
    assert torch.equal(back, W0) and len(edit.was) > 0
    plain = (after.double() - edit.factors.product()).float()
    assert not torch.equal(plain, W0)  # what the places kept are for


# ── the command line ──


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_factors_round_trip(space, kind):
    """Edits go on as factors and come off bit for bit.

    From the run's own matrices within float32's round-off.
    """
    edited(space, kind)
    file, on, off = (space.folder / name for name in ("edits.safetensors", "on", "off"))
    said = call(space, "export", edited=space.out, out=file, **{"as": "factors"}).stdout
    edits, W = load_edits(file), load_weights(space.out)
    assert edits.about["n_edits"] == 5 and set(edits.layers) == {0, 1}
    for layer, edit in edits.layers.items():
        assert (
            0 < edit.factors.rank <= 5 and edit.factors.error < 1e-5
        )  # five keys; round-off of three rounds
        assert (
            f"layer {layer}: rank {edit.factors.rank}, relative error {edit.factors.error:.1e}"
            in said
        )
    call(space, "export", edited=file, out=on)
    base, put_on = load_model(space.model, device="cpu"), load_model(on, device="cpu")
    for layer in (0, 1):
        assert 0 < relative(read_weight(put_on, layer), W[layer]) < 1e-6
    said = call(space, "revert", model=on, edits=file, out=off).stdout
    assert said.count("bit for bit") == 2
    before, after = base.model.state_dict(), load_model(off, device="cpu").model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)

    call(space, "export", edited=space.out, out=space.folder / "run")
    said = call(
        space, "revert", model=space.folder / "run", edits=file, out=space.folder / "near"
    ).stdout
    assert said.count("within round-off") == 2
    near = load_model(space.folder / "near", device="cpu")
    for layer in (0, 1):
        assert relative(read_weight(near, layer), read_weight(base, layer)) < 1e-6


def test_edits_are_refused_where_they_do_not_belong(space):
    edited(space)
    file, other, new = (
        space.folder / "edits.safetensors",
        space.folder / "other",
        space.folder / "new",
    )
    call(space, "export", edited=space.out, out=file, **{"as": "factors"})
    lm = build_lm(seed=1)
    lm.model.save_pretrained(other)
    lm.tokenizer.save_pretrained(other)
    refused(space, "export", "made on another model", model=other, edited=file, out=new)
    refused(space, "revert", "made on another model", model=other, edits=file, out=new)
    refused(space, "revert", "does not hold them", edits=file, out=new)
    refused(space, "export", "exists already", edited=space.out, out=file, **{"as": "factors"})
    refused(space, "revert", "no file of edits", edits=space.out / "weights.safetensors", out=new)
    refused(space, "revert", "cannot be read", edits=space.out / "run.json", out=new)
    assert not new.exists()


def test_reverting_keeps_later_edits(space):
    edited(space)
    file, on, off = (space.folder / name for name in ("edits.safetensors", "on", "off"))
    call(space, "export", edited=space.out, out=file, **{"as": "factors"})
    call(space, "export", edited=file, out=on)
    lm, base = load_model(on, device="cpu"), load_model(space.model, device="cpu")
    later = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    apply_update(lm, 0, later)
    lm.model.save_pretrained(on)
    said = call(space, "revert", model=on, edits=file, out=off).stdout
    assert said.count("edited further") == 1 and said.count("bit for bit") == 1
    assert (
        relative(read_weight(load_model(off, device="cpu"), 0), read_weight(base, 0) + later) < 1e-6
    )


def test_score_takes_factors(space):
    """A file of edits stands wherever a run's folder does."""
    edited(space)
    file = space.folder / "edits.safetensors"
    call(space, "export", edited=space.out, out=file, **{"as": "factors"})
    scores = [
        json.loads(
            call(
                space, "score", edited=one, requests=space.folder / "requests.json", device="cpu"
            ).stdout
        )
        for one in (space.out, file)
    ]
    assert scores[0]["edits"] == pytest.approx(scores[1]["edits"], abs=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gptj"])
def test_adapter_gives_the_edited_logits(space, kind):
    """peft alone: the adapter on the unedited model gives the edited model's logits, and so does
    the merged model.
    """
    peft = pytest.importorskip("peft", reason="peft is not installed (extra `peft`)")
    edited(space, kind)
    folder, adapter = space.folder / "edited", space.folder / "adapter"
    call(space, "export", edited=space.out, out=folder)
    call(space, "export", edited=space.out, out=adapter, **{"as": "adapter"})
    assert {path.name for path in adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
        ranks = {name: file.get_tensor(name).shape[0] for name in file.keys() if ".lora_A." in name}
    assert len(ranks) == 2 and all(0 < rank <= 5 for rank in ranks.values())

    lm = load_model(space.model, device="cpu")
    before, expected = (
        logits(lm.model, lm),
        logits(AutoModelForCausalLM.from_pretrained(folder), lm),
    )
    model = peft.PeftModel.from_pretrained(lm.model, adapter)
    assert relative(before, expected) > 1e-3
    assert relative(logits(model, lm), expected) < 2e-6  # float32 through three layers
    assert relative(logits(model.merge_and_unload(), lm), expected) < 2e-6


def test_adapter_of_unequal_ranks(space):
    """Every matrix keeps its own rank at scale 1; one that was not changed has no adapter."""
    peft = pytest.importorskip("peft", reason="peft is not installed (extra `peft`)")
    from seqedit.exchange.adapter import save_adapter
    from seqedit.exchange.factors import Edits

    lm, changed = build_lm(layers=4), build_lm(layers=4)
    generator = torch.Generator().manual_seed(0)
    for layer, rank in ((0, 1), (1, 7), (2, 0)):
        apply_update(
            changed,
            layer,
            0.1
            * torch.randn(16, rank, generator=generator)
            @ torch.randn(rank, 64, generator=generator),
        )
    edits = Edits(
        {
            layer: layer_edit(read_weight(lm, layer), read_weight(changed, layer), 1)
            for layer in (0, 1, 2)
        },
        "",
        "",
        {},
    )
    save_adapter(lm, edits, "tiny", space.folder / "adapter")
    model = peft.PeftModel.from_pretrained(lm.model, space.folder / "adapter")
    found = {
        name: (layer.r["default"], layer.scaling["default"])
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A") and "c_proj" in name
    }
    assert sorted(found.values()) == [(1, 1.0), (7, 1.0)]
    assert relative(logits(model, lm), logits(changed.model, lm)) < 2e-6
    with pytest.raises(ValueError, match="changed no matrix"):
        save_adapter(lm, Edits({2: edits.layers[2]}, "", "", {}), "tiny", space.folder / "none")


# ── differences ──


def test_diff_command_names_what_differs(space):
    """Exactly the edited matrices differ, with the figures of the matrices themselves.

    A model equals itself.
    """
    edited(space)
    file = space.folder / "diff.json"
    words = [str(space.model), str(space.out), "--model", str(space.model), "--out", str(file)]
    result = invoke("diff", *words)
    assert result.exit_code == 0 and "2 of 40 tensors differ" in result.stdout, result.output
    lm, W = load_model(space.model, device="cpu"), load_weights(space.out)
    for layer, row in enumerate(json.loads(file.read_text())):
        A = read_weight(lm, layer).double()
        update = W[layer] - A
        assert row["name"] == f"transformer.h.{layer}.mlp.c_proj.weight" and row["shape"] == [
            64,
            16,
        ]
        assert row["norm"] == pytest.approx(update.norm().item(), rel=1e-6)
        assert row["relative"] == pytest.approx((update.norm() / A.norm()).item(), rel=1e-6)
        assert row["sigma_max"] == pytest.approx(
            torch.linalg.matrix_norm(update, 2).item(), rel=1e-6
        )
        assert row["condition_a"] == pytest.approx(torch.linalg.cond(A).item(), rel=1e-6)
        assert row["condition_b"] == pytest.approx(
            torch.linalg.cond(W[layer].double()).item(), rel=1e-6
        )
        assert row["rank"] == 5
    result = invoke("diff", str(space.model), str(space.model))
    assert "no difference in 40 tensors" in result.stdout
    result = invoke("diff", str(space.model), str(space.out))
    assert result.exit_code == 1 and "name the unedited model with --model" in result.stderr


def test_diff_of_other_kinds(space):
    wide, lm = space.folder / "wide", build_lm(layers=4)
    lm.model.save_pretrained(wide)
    lm.tokenizer.save_pretrained(wide)
    result = invoke("diff", str(space.model), str(wide))
    assert (
        result.exit_code == 1
        and "transformer.h.3.ln_1.weight is absent in the first" in result.stderr
    )


def test_a_vector_has_no_spectrum():
    found = difference("b", torch.zeros(3), torch.ones(3))
    assert (
        found.rank is None
        and found.relative == float("inf")
        and found.norm == pytest.approx(3**0.5)
    )


def invoke(*words: str):
    from typer.testing import CliRunner

    from seqedit.cli.main import app

    return CliRunner().invoke(app, list(words))


def test_exported_factors_hold_nothing_else(space):
    edited(space)
    file = space.folder / "edits.safetensors"
    call(space, "export", edited=space.out, out=file, **{"as": "factors"})
    assert set(load_file(file)) == {
        f"{name}.{layer}" for name in ("left", "right", "mask", "was") for layer in (0, 1)
    }
