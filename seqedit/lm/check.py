"""Is a declared architecture true? A declaration is compared with the model itself on a few tokens."""

from dataclasses import fields

import torch
from torch import Tensor

from .hooks import recording
from .model import LanguageModel
from .partial_forward import LayerSweep, Tails
from .post_norm import Site
from .weights import read_weight

TOKENS, SOME = 12, slice(6, 10)
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest relative difference taken for round-off, by type of the weights; 0.05 for shorter ones."""


@torch.no_grad()
def check_architecture(lm: LanguageModel) -> None:
    """Compare what the declaration says with whole forward passes of the model over twelve tokens.

    What differs in longer texts only, as attention to a window that the block's arguments do not tell of, is not seen.

    Raises:
        ValueError: a path is not in the model, the edited matrix is no Linear or Conv1D, it does not read (rows,
            tokens, d_ff), its output is not what the MLP gives and the residual stream gains, the logits differ, or
            running blocks on some tokens only gives other values than running them on all; the message names the
            field.
    """
    _check_paths(lm)
    ids, last = torch.linspace(1, lm.config.vocab_size - 1, TOKENS).long().tolist(), lm.n_layers - 1
    modules = {
        "last": lm.block(last),
        "block": lm.block(0),
        "mlp": lm.mlp(0),
        "down_proj": lm.down_proj(0),
    }
    row = torch.tensor([ids], device=lm.device)
    with recording(modules) as calls:
        logits = lm.model(input_ids=row, use_cache=False).logits
    top, hidden, m = (calls[name].hidden for name in ("last", "block", "mlp"))
    if (shape := tuple(calls["down_proj"].input.shape[:-1])) != row.shape:
        raise ValueError(
            f"{_name(lm)}: down_proj: its input must be (rows, tokens, d_ff), but its first dimensions "
            f"are {shape} for {tuple(row.shape)}; this architecture cannot be edited"
        )
    _same(lm, calls["down_proj"].hidden, m, "mlp: its output is not that of down_proj")
    _same(
        lm,
        lm.logits(top),
        logits,
        "final_norm, head or soft_cap: they do not give the model's logits",
    )

    size = (
        max(m.norm(), hidden.norm()) / m.numel() ** 0.5
    )  # well above the rounding of short floats
    shift = size * torch.linspace(-1, 1, m.shape[-1], device=m.device).to(m)

    def shifted(module, args, output):
        return (output[0] + shift, *output[1:]) if isinstance(output, tuple) else output + shift

    handle = lm.mlp(0).register_forward_hook(shifted)
    try:
        with recording(modules) as moved:
            lm.model(input_ids=row, use_cache=False)
    finally:
        handle.remove()
    gain = Site(lm.post_norm(0), m).gain(shift)
    _same(
        lm,
        moved["block"].hidden - hidden,
        gain.expand_as(hidden),
        "block, mlp or post_norm: what is added to the MLP's output does not reach the block's output as declared",
    )
    _same(
        lm,
        _on_some_tokens(lm, ids),
        top[0, SOME],
        "block: run on some tokens, with attention's keys and values of the others, it gives other values than on "
        "all; its attention or arguments are of a kind that seqedit/lm/tails.py does not know: this architecture "
        "cannot be edited",
    )


def _check_paths(lm: LanguageModel) -> None:
    for field in fields(lm.architecture):
        path = getattr(lm.architecture, field.name)
        if field.name in ("soft_cap", "bos") or path is None:
            continue
        for layer in (0, lm.n_layers - 1):
            try:
                lm.model.get_submodule(path.format(layer))
            except AttributeError as error:
                raise ValueError(
                    f"{_name(lm)}: {field.name}: there is no {path.format(layer)!r} in "
                    f"{type(lm.model).__name__} ({error}); print(model) shows its modules"
                ) from error
    try:
        read_weight(lm, 0)
    except TypeError as error:
        raise ValueError(f"{_name(lm)}: down_proj: {error}") from error


def _on_some_tokens(lm: LanguageModel, ids: list[int]) -> Tensor:
    """Output of the last block at `SOME` tokens by the way targets take, in a row shorter than its neighbour."""
    last = lm.n_layers - 1
    sweep = LayerSweep(lm, [ids, ids[: SOME.stop]], [0, 0], [SOME.start, SOME.start])
    for _ in range(last):
        sweep.advance()
    stem = sweep.residual()[1:, SOME]
    keys, values = sweep.advance()
    at = torch.arange(SOME.start, SOME.stop, device=lm.device)[None]
    return Tails([sweep.blocks[last]], [(keys[1:], values[1:])], at).run(stem, at.shape[1])[0]


def _same(lm: LanguageModel, found: Tensor, expected: Tensor, problem: str) -> None:
    found, expected = found.double(), expected.double().to(found.device)
    error = ((found - expected).norm() / expected.norm()).item()
    if not error <= TOLERANCE.get(lm.model.dtype, 0.05):  # NaN is no agreement
        raise ValueError(
            f"{_name(lm)}: {problem} (relative difference {error:.1g}); compare the declaration with the "
            "model's code in transformers"
        )


def _name(lm: LanguageModel) -> str:
    return f"architecture {lm.model.config.model_type!r}"
