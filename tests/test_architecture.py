"""Every declared architecture, on a tiny random model: what is read, what an edit changes, and the
book's table.

A key is read from shorter, padded batches than a plain forward pass: 1e-5 allows for float32
round-off in between. Where models run in float64, most still compute norms or attention scores in
float32: 1e-6 allows for a rounding there (6e-8) that falls the other way; a wrong mask, position or
scale changes the third digit.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from conftest import (
    CONTEXTS,
    END,
    MODEL_TYPES,
    ROOT,
    bits,
    build_plan,
    build_tokenizer,
    changed,
    relative,
)
from transformers import AutoConfig

from seqedit.editing.sequential import run_sequential
from seqedit.lm import row_attention
from seqedit.lm.architecture import ARCHITECTURES, DECLARED
from seqedit.lm.hooks import recording
from seqedit.lm.keys import (
    BARE,
    KeyReader,
    read_keys,
    read_values,
)
from seqedit.lm.layer_sweep import LayerSweep
from seqedit.lm.likelihood import log_likelihood
from seqedit.lm.load import load_model
from seqedit.lm.partial_forward import Inner
from seqedit.lm.places import Places
from seqedit.lm.post_norm import Injection, before_norm
from seqedit.lm.tails import Tails
from seqedit.lm.target_loss import TargetConfig
from seqedit.lm.targets import optimise_targets
from seqedit.lm.tokens import continuation_rows, tokenise
from seqedit.lm.weights import (
    apply_update,
    read_weight,
    restored,
    write_weight,
)
from seqedit.methods.memit import memit

# Written out again rather than taken from the package: a wrong path must not agree with itself.
DOWN = {
    "gpt2": "transformer.h.{}.mlp.c_proj",
    "gptj": "transformer.h.{}.mlp.fc_out",
    "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    "phi": "model.layers.{}.mlp.fc2",
    "gemma3": "model.language_model.layers.{}.mlp.down_proj",
}
DOWN |= {name: "model.layers.{}.mlp.down_proj" for name in MODEL_TYPES if name not in DOWN}
TABLE = ROOT / "data" / "architectures.md"
TABLES = (
    ("edited matrix", "stored", "block returns", "final norm"),
    (
        "MLP beside attention",
        "norm after it",
        "soft-cap",
        "head tied",
        "attention",
        "window",
        "BOS",
    ),
    (
        "keys",
        "values",
        "fast path",
        "targets",
        "one matrix",
        "restored",
        "round",
        "batched",
        "padding",
    ),
)
SAME = 1e-6  # in float64; see above

every_model = pytest.mark.parametrize("model_type", MODEL_TYPES)


def plain_forward(lm, text, modules):
    """Inputs and outputs of named modules, and the logits, in one unmodified forward pass over one
    text.
    """
    seen = {}
    handles = [
        lm.model.get_submodule(name).register_forward_hook(
            lambda _, args, output, name=name: seen.update({name: (args[0], output)})
        )
        for name in modules
    ]
    ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
    logits = lm.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    for handle in handles:
        handle.remove()
    return seen, logits[0]


def subject_position(lm, request) -> int:
    until = request.text[: request.prompt.index("{}") + len(request.subject)]
    return len(lm.tokenizer(until)["input_ids"]) - 1  # no subject here merges with what follows


def adding(shift, position):
    """A hook that adds to a module's output at one token of its only row."""

    def hook(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, position] += shift
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return hook


def test_all_are_tested():
    assert DECLARED == set(MODEL_TYPES) == set(DOWN)


@every_model
def test_structure(tiny_lm, architectures, model_type):
    """What modules there are and how they are connected, found on the model, is as declared."""
    lm, declared, ids = tiny_lm(model_type), ARCHITECTURES[model_type], torch.arange(1, 33)[None]
    modules = {"block": lm.block(1), "mlp": lm.mlp(1)} | {i: lm.block(i) for i in range(3)}
    with recording(modules) as before:
        logits = lm.model(input_ids=ids).logits
    bump = torch.zeros(32, 16).index_fill(0, torch.tensor(0), 1) * torch.linspace(-1, 2, 16)
    far, beside = [], None
    for layer in range(3):  # move the first token's input of a block

        def move(module, args):
            return (args[0] + bump, *args[1:])

        handle = lm.block(layer).register_forward_pre_hook(move)
        with recording(modules) as after:
            lm.model(input_ids=ids)
        handle.remove()
        moved = (after[layer].hidden != before[layer].hidden)[0].any(dim=1)
        assert moved[:8].all()  # attention reaches at least so far here
        far.append(moved[31].item())
        if layer == 1:
            beside = torch.equal(after["mlp"].args[0][0, 3], before["mlp"].args[0][0, 3])
    cap = lm.architecture.soft_cap and getattr(lm.config, lm.architecture.soft_cap)
    assert not cap or logits.abs().max() < cap
    assert (declared.post_norm is None) == (lm.post_norm(1) is None)
    down = lm.model.get_submodule(DOWN[model_type].format(1))
    assert down is lm.down_proj(1)
    architectures(
        model_type,
        **{
            "edited matrix": f"`{DOWN[model_type]}`",
            "stored": {"Conv1D": "in × out", "Linear": "out × in"}[type(down).__name__],
            "block returns": "tuple" if isinstance(before["block"].output, tuple) else "tensor",
            "MLP beside attention": "yes" if beside else "–",
            "norm after it": "yes" if declared.post_norm else "–",
            "final norm": f"`{declared.final_norm}`",
            "soft-cap": "yes" if cap else "–",
            "head tied": "yes" if AutoConfig.for_model(model_type).tie_word_embeddings else "–",
            "attention": lm.config._attn_implementation,
            "window": {0: "–", 3: "all layers"}.get(far.count(False), "some layers"),
        },
    )


@every_model
def test_keys_are_the_true_inputs(tiny_lm, requests, architectures, model_type):
    """The key of a bare prompt is the input of the down projection at the subject's last token,
    nothing else.
    """
    lm = tiny_lm(model_type, bos=model_type in ("llama", "mistral"))
    for layer in (0, 2):
        K = read_keys(lm, requests, BARE, layer)
        assert K.shape == (read_weight(lm, layer).shape[1], len(requests))
        for i, request in enumerate(requests):
            seen, _ = plain_forward(lm, request.text, [DOWN[model_type].format(layer)])
            key = seen[DOWN[model_type].format(layer)][0][0, subject_position(lm, request)]
            assert relative(K[:, i], key) < 1e-5
    architectures(model_type, keys="✓")


@every_model
def test_values_and_logits(tiny_lm, requests, architectures, model_type):
    """h is the block's output (or the MLP's); `logits` of the last block's output are the model's
    own.
    """
    lm = tiny_lm(model_type)
    request, path, last = (
        requests[0],
        lm.architecture.block.format(1),
        lm.architecture.block.format(2),
    )
    seen, logits = plain_forward(lm, request.text, [path, last, lm.architecture.mlp.format(1)])
    hidden = {name: out[0] if isinstance(out, tuple) else out for name, (_, out) in seen.items()}
    for site, name in (("block", path), ("mlp", lm.architecture.mlp.format(1))):
        h = read_values(lm, [request], 1, site)[:, 0]
        assert relative(h, hidden[name][0, subject_position(lm, request)]) < 1e-5
    assert relative(lm.logits(hidden[last])[0], logits) < 1e-6
    assert lm.n_layers == 3 and lm.max_positions == 64
    architectures(model_type, values="✓")


@every_model
def test_fast_path(exact_lm, architectures, model_type):
    """Blocks above the edited layer, run from the subject on: logits, loss and gradient of whole
    forward passes.
    """
    lm, generator = exact_lm(model_type), torch.Generator().manual_seed(0)
    first = torch.randint(1, 300, (20,), generator=generator).tolist()
    rows, at = [first, first[:7] + [5, 6] + first[9:17]], [9, 11]  # they part before the subject
    for layer, packs in product((0, 1), (True, False)):  # both ways, whichever the family's own
        sweep = LayerSweep(lm, rows, [0, 0], at)
        assert all(block.packs for block in sweep.blocks)
        sweep.blocks = [replace(block, packs=packs) for block in sweep.blocks]
        for _ in range(layer):
            sweep.advance()
        m = sweep.peek(Inner(lm.mlp(layer), "output"), torch.tensor(at))
        sweep.advance()
        places = Places.of(at, [len(row) for row in rows], lm.device)
        stem = sweep.hidden[sweep.places.index(places.row, places.position)]
        kept = [sweep.advance() for _ in range(layer + 1, 3)]
        four = places.column >= places.length[places.row] - 4
        both = Tails(sweep.blocks[layer + 1 :], kept, places, four)
        for i, (row, start) in enumerate(zip(rows, at, strict=True)):
            own = torch.tensor([i == 0, i == 1])
            shift = torch.randn(16, generator=generator, dtype=torch.float64)
            losses = []
            for fast in (True, False):
                delta = shift.clone().requires_grad_()
                if fast:
                    gain = Injection(lm.post_norm(layer), m[own]).gain(delta[None])
                    below = stem[own[places.row]].index_add(0, torch.tensor([0]), gain)
                    logits = lm.logits(both.select(own).run(below))
                else:
                    module = lm.mlp(layer) if lm.post_norm(layer) else lm.block(layer)
                    handle = module.register_forward_hook(adding(delta, start))
                    logits = lm.model(input_ids=torch.tensor([row])).logits[0, -4:]
                    handle.remove()
                loss = -logits.log_softmax(-1)[range(4), [3, 1, 4, 1]].sum()
                losses.append((logits.detach(), loss.detach(), *torch.autograd.grad(loss, delta)))
            for found, expected in zip(*losses, strict=True):
                assert relative(found, expected) < SAME
    architectures(model_type, **{"fast path": "✓"})


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma2"])
def test_long_rows_keep_the_attention_of_the_model(exact_lm, requests, monkeypatch, model_type):
    """Beyond `SHORT` the model's own attention sees the rows: the same keys and targets."""
    config, found = TargetConfig(steps=3, lr=0.1, stop_loss=0.0), []
    for short in (row_attention.SHORT, 0):
        monkeypatch.setattr(row_attention, "SHORT", short)
        lm = exact_lm(model_type)
        z = optimise_targets(lm, requests[:3], CONTEXTS, 1, config).z
        found.append((z, read_keys(lm, requests[:3], CONTEXTS, 1)))
    for own, other in zip(*found, strict=True):
        assert relative(own, other) < SAME


@every_model
@pytest.mark.parametrize("site", ["block", "mlp"])
def test_what_a_target_promises_is_written(exact_lm, requests, architectures, model_type, site):
    """The matrix that gives z at the subject, and what it gave before at all tokens before it, has
    the promised loss.

    Also where a norm stands behind the MLP: a residual-stream gain is turned into one of the MLP's
    output.
    """
    lm, request = exact_lm(model_type), replace(requests[4], target_new="the")
    config = TargetConfig(steps=6, lr=0.1, clamp=2.0, stop_loss=0.0, kl=0.0, weight_decay=0.0)
    targets = optimise_targets(lm, [request], BARE, 1, config, site=site)
    R = targets.z.T - read_values(lm, [request], 1, site)
    if site == "block" and (norm := lm.post_norm(1)):
        R = before_norm(norm, read_values(lm, [request], 1, "mlp"), R)
    K = plain_forward(lm, request.text, [DOWN[model_type].format(1)])[0][
        DOWN[model_type].format(1)
    ][0][0].T
    rows = continuation_rows(lm, [request.text], [request.target_new])
    assert len(rows[0].continuation) == 1  # predicted at the subject: nothing else is asked
    before = -log_likelihood(lm, rows)[0]
    with restored(lm, [1]):
        apply_update(
            lm, 1, torch.cat([torch.zeros(16, K.shape[1] - 1), R], dim=1) @ torch.linalg.pinv(K)
        )
        z = read_values(lm, [request], 1, site).T
        after = -log_likelihood(lm, rows)[0]
    near = (
        SAME if site == "mlp" or lm.post_norm(1) is None else 1e-4
    )  # ε in the norm: 1e-6 of the mean square
    assert relative(z - targets.h, targets.z - targets.h) < near
    assert abs(after - targets.loss) < near and before - after > 1e-2
    architectures(model_type, targets="✓")


@every_model
def test_an_edit_changes_one_matrix(tiny_lm, architectures, model_type):
    """`apply_update` adds Δ, out × in, to the declared matrix and to nothing else: the module then
    adds Δx.

    A head that is tied to the embedding, and the embedding, are among what stays.
    """
    lm = tiny_lm(model_type, tied=True)
    tied = lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight
    assert tied == (model_type not in ("gptj", "gpt_neox"))
    before, module = bits(lm), lm.model.get_submodule(DOWN[model_type].format(1))
    W = read_weight(lm, 1)
    update = torch.randn(W.shape, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, W.shape[1], generator=torch.Generator().manual_seed(1))
    y = module(x)
    apply_update(lm, 1, update)
    assert changed(lm, before) == {DOWN[model_type].format(1) + ".weight"}
    assert torch.equal(read_weight(lm, 1), W + update)
    assert torch.allclose(
        module(x) - y, x @ update.T, atol=1e-4
    )  # float32 sums of 40 to 64 products
    with pytest.raises(ValueError, match=r"layer 1: the update is \(.*\) but the matrix is"):
        apply_update(lm, 1, update.T)
    architectures(model_type, **{"one matrix": "✓"})


@every_model
def test_restored(tiny_lm, architectures, model_type):
    """Every bit is as before, also after an error; only the named layers are put back."""
    lm = tiny_lm(model_type)
    before = bits(lm)
    with restored(lm, [0, 1]):
        for layer in (0, 1):
            apply_update(lm, layer, 0.1 * torch.ones_like(read_weight(lm, layer)))
        assert len(changed(lm, before)) == 2
    assert not changed(lm, before)
    with pytest.raises(KeyboardInterrupt), restored(lm, [1]):
        apply_update(lm, 1, torch.ones_like(read_weight(lm, 1)))
        raise KeyboardInterrupt
    assert not changed(lm, before)
    with restored(lm, [1]):
        apply_update(lm, 2, torch.ones_like(read_weight(lm, 2)))
    assert changed(lm, before) == {DOWN[model_type].format(2) + ".weight"}
    architectures(model_type, restored="✓")


def test_weights_are_put_back_bit_for_bit(tiny_lm):
    lm = tiny_lm("gpt2")
    before, W = bits(lm), read_weight(lm, 1)
    apply_update(lm, 1, torch.rand_like(W))
    write_weight(lm, 1, W)
    assert not changed(lm, before)
    W.zero_()  # a copy: the model does not follow
    assert not changed(lm, before)


@every_model
def test_rounds(tiny_lm, requests, architectures, model_type):
    """A round over two layers changes their matrices only and brings the residual stream closer to
    its targets.
    """
    lm = tiny_lm(model_type)
    before = bits(lm)
    with restored(lm, [0, 1]):
        (done,) = run_sequential(lm, [requests], memit(0.01), build_plan(lm))
        assert changed(lm, before) == {
            DOWN[model_type].format(layer) + ".weight" for layer in (0, 1)
        }
        assert done.residual_after < 0.7 * done.residual_before
        assert {outcome.status for outcome in done.outcomes} == {"edited"}
    assert not changed(lm, before)
    architectures(model_type, round="✓")


@every_model
def test_targets_lower_the_loss(tiny_lm, requests, model_type):
    """On every architecture the optimisation runs and brings every request's loss down."""
    lm = tiny_lm(model_type)
    free = {"stop_loss": 0.0, "weight_decay": 0.0, "clamp": 3.0}
    first = optimise_targets(lm, requests, CONTEXTS, 0, TargetConfig(steps=1, **free))
    best = optimise_targets(lm, requests, CONTEXTS, 0, TargetConfig(steps=20, lr=0.1, **free))
    assert (best.loss < first.loss).all()
    drop = 0.5 if lm.post_norm(0) is None else 0.02  # a norm bounds what one MLP can add
    assert best.loss[4] < first.loss[4] - drop  # the subject ends the prompt: δ acts directly


@every_model
def test_batched_is_one_by_one(exact_lm, requests, architectures, model_type):
    """Keys, values and targets of all requests together are those of each alone."""
    lm, config = exact_lm(model_type), TargetConfig(steps=4, lr=0.1, clamp=2.0, stop_loss=0.0)
    K = KeyReader(lm, requests, CONTEXTS).keys(1)
    h = {site: read_values(lm, requests, 1, site) for site in ("block", "mlp")}
    targets = optimise_targets(lm, requests, CONTEXTS, 1, config)
    for i, request in enumerate(requests):
        assert relative(K[:, i], KeyReader(lm, [request], CONTEXTS).keys(1)[:, 0]) < SAME
        for site, values in h.items():
            assert relative(values[:, i], read_values(lm, [request], 1, site)[:, 0]) < SAME
        alone = optimise_targets(lm, [request], CONTEXTS, 1, config)
        assert (
            relative(targets.z[i] - targets.h[i], (alone.z - alone.h)[0]) < 10 * SAME
        )  # Adam divides
    architectures(model_type, batched="✓")


@every_model
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_positions(tiny_lm, requests, architectures, model_type, side):
    """A padded batch with its mask and position ids gives the same keys, on whichever side the
    tokenizer would pad.
    """
    lm = tiny_lm(model_type)
    lm.tokenizer.padding_side = side
    K = read_keys(lm, requests, BARE, 2)
    batch = lm.tokenizer([r.text for r in requests], padding=True, return_tensors="pt")
    assert not batch["attention_mask"].all()
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with recording({"down": lm.down_proj(2)}) as calls:
        lm.model(**batch, position_ids=positions)
    for i, request in enumerate(requests):
        padding = (
            len(batch["input_ids"][i]) - batch["attention_mask"][i].sum() if side == "left" else 0
        )
        assert (
            relative(K[:, i], calls["down"].input[i, padding + subject_position(lm, request)])
            < 1e-5
        )
    architectures(model_type, padding="✓")


@every_model
def test_exactly_one_bos(tiny_lm, tmp_path, architectures, model_type):
    """A tokenizer that adds BOS is left as it is; one that does not gets it where the family cannot
    do without.
    """
    counts = {}
    for bos in (True, False):
        lm = tiny_lm(model_type)
        lm.model.save_pretrained(tmp_path)
        build_tokenizer(bos=bos).save_pretrained(tmp_path)
        lm = load_model(tmp_path, device="cpu")
        tokens = tokenise(lm, ["The café", "{}"])
        counts[bos] = [ids.count(lm.tokenizer.bos_token_id) for ids in tokens.ids]
        plain = lm.tokenizer("The café", add_special_tokens=False, return_offsets_mapping=True)
        assert tokens.ids[0][-len(plain["input_ids"]) :] == plain["input_ids"]
        assert tokens.offsets[0] == [(0, 0)] * counts[bos][0] + plain["offset_mapping"]
        assert tokens.ids[0][0] == lm.tokenizer.convert_tokens_to_ids(END) or not counts[bos][0]
    needed = model_type.startswith("gemma")
    assert counts == {True: [1, 1], False: [1, 1] if needed else [0, 0]}
    architectures(model_type, BOS="always" if needed else "tokenizer's")


def test_gains_beyond_the_norm():
    """`before_norm`: exact where some m′ gives the gain, in direction where none does; faint
    channels stay.
    """
    generator = torch.Generator().manual_seed(0)
    norm = torch.nn.RMSNorm(16, eps=1e-12, dtype=torch.float64)
    norm.weight.data = torch.rand(16, generator=generator, dtype=torch.float64) + 0.5
    m, other = torch.randn(2, 16, 5, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        before, after = norm(m.T).T, norm(other.T).T
        found = m + before_norm(norm, m, after - before)
        assert relative(norm(found.T).T, after) < 1e-12 and torch.allclose(
            found.norm(dim=0), m.norm(dim=0)
        )
        gain = torch.randn(16, 5, generator=generator, dtype=torch.float64)
        cosine = torch.cosine_similarity(
            norm((m + before_norm(norm, m, gain)).T).T, before + gain, dim=0
        )
        assert (cosine - 1).abs().max() < 1e-12
        assert before_norm(norm, m, 0 * gain).abs().max() < 1e-12
        norm.weight[3] = 1e-6
        faint = before_norm(norm, m, gain) + m  # without the limit: 1e6 in this channel
        assert torch.allclose(
            faint[3] / faint[0], m[3] / (m[0] + m.norm(dim=0) / 4 * gain[0] / norm.weight[0])
        )


def test_the_tables_are_what_the_tests_found(request, architectures):
    """The book's tables are made here, `make architectures`; this comes last and needs all tests of
    this file.
    """
    if request.config.getoption("keyword") or any(
        "::" in argument for argument in request.config.args
    ):
        pytest.skip("some tests of this file were chosen; the tables need all of them")
    every = {column for columns in TABLES for column in columns}
    assert architectures.found and all(row.keys() == every for row in architectures.found.values())
    tables = []
    for columns in TABLES:
        rows = [["model type", *columns], ["---"] * (len(columns) + 1)]
        rows += [
            [f"`{name}`", *(found[column] for column in columns)]
            for name, found in architectures.found.items()
        ]
        tables.append("".join(f"| {' | '.join(row)} |\n" for row in rows))
    text = "\n".join(tables)
    if file := request.config.getoption("--record-architectures"):
        Path(file).write_text(text, encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == text, "`make architectures` writes it again"
