"""Compare a declared architecture with the model itself, on a few tokens."""

from dataclasses import fields

import torch
from jaxtyping import Float
from torch import Tensor

from .hooks import Call, forward_hooks, recording
from .layer_sweep import LayerSweep
from .model import LanguageModel
from .places import Places
from .post_norm import Injection
from .tails import Tails
from .weights import read_weight

TOKENS = 12
"""Tokens of the text on which the model is compared."""

TAIL = slice(6, 10)
"""Tokens of it on which blocks are run partially."""

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest relative difference taken for round-off, by type of weights; 0.05 for shorter ones."""


@torch.no_grad()
def check_architecture(lm: LanguageModel) -> None:
    """Compare what the declaration says with whole forward passes of the model over twelve tokens.

    A difference that shows in longer texts only is not found, such as an attention window that the
    block's arguments do not mention.

    Raises:
        ValueError: the message names the field of the declaration. A path is not in the model; the
            edited matrix is neither a Linear nor a Conv1D, or does not read (rows, tokens, d_ff);
            its output is not the MLP's, or not what the residual stream gains; the logits differ;
            or running blocks on some tokens gives other values than running them on all.
    """
    _check_paths(lm)
    ids = torch.linspace(1, lm.config.vocab_size - 1, TOKENS).long().tolist()
    row = torch.tensor([ids], device=lm.device)
    modules = {
        "last": lm.block(lm.n_layers - 1),
        "block": lm.block(0),
        "mlp": lm.mlp(0),
        "down_proj": lm.down_proj(0),
    }
    with recording(modules) as calls:
        logits = lm.model(input_ids=row, use_cache=False).logits
    _check_edited_matrix(lm, row, calls)
    _same(
        lm,
        lm.logits(calls["last"].hidden),
        logits,
        "final_norm, head or soft_cap: they do not give the model's logits",
    )
    _check_gain(lm, row, calls)
    _same(
        lm,
        _run_on_tail(lm, ids),
        calls["last"].hidden[0, TAIL],
        "block: run on some tokens, with the attention keys and values of the others, it gives "
        "other values than on all; its attention or arguments are of a kind that "
        "seqedit/lm/partial_forward.py does not know: this architecture cannot be edited",
    )


def _check_paths(lm: LanguageModel) -> None:
    """Check that declared paths lead to modules, and that the edited matrix can be edited."""
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


def _check_edited_matrix(lm: LanguageModel, row: Tensor, calls: dict[str, Call]) -> None:
    """Check that the edited matrix reads whole rows, and that its output is that of the MLP."""
    read = calls["down_proj"].input.shape[:-1]
    if read != row.shape:
        raise ValueError(
            f"{_name(lm)}: down_proj: its input must be (rows, tokens, d_ff), "
            f"but its first dimensions are {tuple(read)} for {tuple(row.shape)}; "
            "this architecture cannot be edited"
        )
    _same(
        lm,
        calls["down_proj"].hidden,
        calls["mlp"].hidden,
        "mlp: its output is not that of down_proj",
    )


def _check_gain(lm: LanguageModel, row: Tensor, calls: dict[str, Call]) -> None:
    """Check that what is added to the MLP's output reaches the block's output as declared."""
    m, hidden = calls["mlp"].hidden, calls["block"].hidden  # (1, tokens, d_model)
    size = (
        max(m.norm(), hidden.norm()) / m.numel() ** 0.5
    )  # well above the rounding of short floats
    shift = size * torch.linspace(-1, 1, m.shape[-1], device=m.device).to(m)  # (d_model,)

    def add_shift(module, args, kwargs, output):
        if isinstance(output, tuple):
            return output[0] + shift, *output[1:]
        return output + shift

    with forward_hooks(after=[(lm.mlp(0), add_shift)]), recording({"block": lm.block(0)}) as moved:
        lm.model(input_ids=row, use_cache=False)
    gain = Injection(lm.post_norm(0), m[0]).gain(shift.expand_as(m[0]))  # (tokens, d_model)
    _same(
        lm,
        moved["block"].hidden - hidden,
        gain.expand_as(hidden),
        "block, mlp or post_norm: what is added to the MLP's output does not reach the block's "
        "output as declared",
    )


def _run_on_tail(lm: LanguageModel, ids: list[int]) -> Float[Tensor, "length d_model"]:
    """Output of the last block at the tokens `TAIL`, computed as for targets.

    The row that is run is shorter than its neighbour, so that rows of different lengths are tried
    too.
    """
    last = lm.n_layers - 1
    rows, own_from = [ids, ids[: TAIL.stop]], [TAIL.start, TAIL.start]
    sweep = LayerSweep(lm, rows, [0, 0], own_from).advance_to(last)
    places = Places.of([TAIL.start] * 2, [len(row) for row in rows], lm.device)
    hidden = sweep.hidden.to(lm.device)[sweep.places.index(places.row, places.position)]
    everything = torch.ones_like(places.row, dtype=torch.bool)
    tails = Tails(sweep.blocks[last:], [sweep.advance()], places, everything)
    return tails.run(hidden)[places.row == 1]


def _same(lm: LanguageModel, found: Tensor, expected: Tensor, problem: str) -> None:
    """Check that two tensors agree up to round-off.

    Raises:
        ValueError: they do not; the message begins with the problem.
    """
    found, expected = found.double(), expected.double().to(found.device)
    error = ((found - expected).norm() / expected.norm()).item()
    if not error <= TOLERANCE.get(lm.model.dtype, 0.05):  # NaN fails as well
        raise ValueError(
            f"{_name(lm)}: {problem} (relative difference {error:.1g}); compare the declaration "
            "with the model's code in transformers"
        )


def _name(lm: LanguageModel) -> str:
    return f"architecture {lm.model.config.model_type!r}"
