"""The plain way to edit, one request at a time.

It is the yardstick of tests and benchmarks and is never used for editing. It is written from the
published procedures, with whole forward passes, hooks, `torch.optim.Adam` and the dense system that
the released code solves. Nothing is shared with `lm/targets.py`, `lm/keys.py` or `algebra`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from ..lm.keys import Contexts
from ..lm.model import LanguageModel
from ..lm.post_norm import before_norm
from ..lm.target_loss import TargetConfig
from ..lm.weights import apply_update, read_weight
from ..requests.request import EditRequest

Hook = Callable[[nn.Module, Any, Any], Any]


def target_value(
    lm: LanguageModel,
    request: EditRequest,
    templates: Sequence[str],
    layer: int,
    config: TargetConfig,
    module: nn.Module | None = None,
) -> tuple[Float[Tensor, "d_model"], int, float]:
    """Optimise the target z of one request by AlphaEdit's published procedure.

    δ is added to the output of the block; or, if the MLP's output passes a norm, before that norm.

    Args:
        lm: the model.
        request: the request.
        templates: context templates with "{}" for the prompt.
        layer: where δ is added.
        config: how the target is optimised.
        module: where h is read; the block of `layer` unless given (ROME reads its MLP).

    Returns:
        z, the number of Adam steps, and the last total loss.
    """
    rows, subjects, target = _tokenise(lm, request, templates, config)
    ids, mask = _pad(rows, lm.device)
    size = lm.config.hidden_size
    delta = torch.zeros(size, dtype=lm.model.dtype, device=lm.device, requires_grad=True)
    block = lm.block(layer)
    at = lm.mlp(layer) if lm.post_norm(layer) else block
    seen: dict[str, Tensor] = {}  # h, z, and the KL prompt's log-probabilities p0

    def read_h(_module: nn.Module, _args: Any, output: Any) -> None:
        seen.setdefault("h", _hidden(output)[0, subjects[0]].detach().clone())

    def read_z(_module: nn.Module, _args: Any, output: Any) -> None:
        seen["z"] = _hidden(output)[0, subjects[0]].detach().clone()

    def add_delta(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = _hidden(output).clone()
        for row, position in enumerate(subjects):
            hidden[row, position] += delta
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    optimizer, steps = torch.optim.Adam([delta], lr=config.lr), 0
    with _hooks((module or at, read_h), (at, add_delta), (module or block, read_z)):
        for forward in range(1, config.steps + 1):
            log_p = log_softmax(lm.model(input_ids=ids, attention_mask=mask).logits, dim=-1)
            neutral = log_p[-1, subjects[-1]]  # the KL prompt's row is the last one
            p0 = seen.setdefault("p0", neutral.detach().clone())
            loss = (
                -_target_log_p(log_p, rows[:-1], target).mean()
                + config.kl * kl_div(p0, neutral, log_target=True, reduction="sum")
                + config.weight_decay * delta.norm() / seen["h"].norm() ** 2
            )
            if loss < config.stop_loss or forward == config.steps:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
            _clamp(delta, config.clamp * seen["h"].norm())
    z = seen["h"] + delta.detach() if at is block else seen["z"]
    return z, steps, loss.item()


def _tokenise(
    lm: LanguageModel, request: EditRequest, templates: Sequence[str], config: TargetConfig
) -> tuple[list[list[int]], list[int], list[int]]:
    """The tokens of each filled template and of the KL prompt, which comes last.

    Returns:
        The rows, with the target but for its last token after each template; the place of the
        subject's last token in each row; and the tokens of the target.
    """
    tokenizer: Any = lm.tokenizer
    target = tokenizer(" " + request.target_new, add_special_tokens=False)["input_ids"]
    rows, subjects = [], []
    for template in [*(t.replace("{}", request.prompt) for t in templates), config.kl_prompt]:
        start = template[: template.index("{}")] + request.subject
        subjects.append(len(tokenizer(start)["input_ids"]) - 1)
        rows.append(tokenizer(template.replace("{}", request.subject))["input_ids"])
    return [*(row + target[:-1] for row in rows[:-1]), rows[-1]], subjects, target


def _pad(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-padded ids and their mask, (rows, longest) both."""
    gaps = [max(map(len, rows)) - len(row) for row in rows]
    ids = [row + [0] * gap for row, gap in zip(rows, gaps, strict=True)]
    mask = [[1] * len(row) + [0] * gap for row, gap in zip(rows, gaps, strict=True)]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _target_log_p(
    log_p: Float[Tensor, "all_rows tokens vocabulary"], rows: list[list[int]], target: list[int]
) -> Float[Tensor, "places"]:
    """Log-probability of each token of the target after each of the first rows."""
    found = []
    for i, row in enumerate(rows):
        for t, token in enumerate(target):
            found.append(log_p[i, len(row) - len(target) + t, token])
    return torch.stack(found)


def _clamp(delta: Float[Tensor, "d_model"], limit: Float[Tensor, ""]) -> None:
    """Scale δ down, in place, to the norm `limit` if it is longer."""
    if delta.norm() > limit:
        with torch.no_grad():
            delta.mul_(limit / delta.norm())


def _hidden(output: Any) -> Tensor:
    """The hidden states in a module's output, (rows, tokens, d_model)."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def _hooks(*hooks: tuple[nn.Module, Hook]) -> Iterator[None]:
    """Call each hook after the forward pass of its module, inside the `with` block only."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def at_subject(
    lm: LanguageModel,
    request: EditRequest,
    template: str,
    module: nn.Module,
    side: Literal["input", "output"],
) -> Float[Tensor, "width"]:
    """Read a module's input or output at the subject's last token, by a whole forward pass.

    Args:
        lm: the model.
        request: the request that fills the template.
        template: context template with "{}" for the prompt.
        module: any module of the model.
        side: which of the two is read.
    """
    tokenizer: Any = lm.tokenizer
    text = template.replace("{}", request.prompt)
    position = len(tokenizer(text[: text.index("{}")] + request.subject)["input_ids"]) - 1
    seen: dict[str, Tensor] = {}

    def read(_module: nn.Module, args: Any, output: Any) -> None:
        seen["input"], seen["output"] = args[0], _hidden(output)

    with _hooks((module, read)):
        ids = tokenizer(text.replace("{}", request.subject))["input_ids"]
        lm.model(input_ids=torch.tensor([ids], device=lm.device))
    return seen[side][0, position]


def alphaedit_round(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    layers: Sequence[int],
    projections: dict[int, Tensor],
    l2: float,
    past: dict[int, Tensor],
    config: TargetConfig,
) -> list[Tensor]:
    """Run one round of AlphaEdit and write it into the model.

    Targets are optimised one by one. Then each layer's update solves the dense system

        [P (K Kᵀ + K_pK_pᵀ) + L2·I] X = P K Rᵀ,  Δ = Xᵀ.

    Args:
        lm: the model; it is changed.
        requests: the requests of the round.
        contexts: groups of context templates; groups weigh alike, and so do templates of a group.
        layers: the edited layers, ascending.
        projections: layer → P, (d_ff, d_ff), float64.
        l2: L2.
        past: layer → K_pK_pᵀ, (d_ff, d_ff), float64; the keys of the round are added in place.
        config: how targets are optimised.

    Returns:
        The targets z, (d_model,) each.
    """
    templates = [t for group in contexts for t in group]
    weights = [1 / (len(contexts) * len(group)) for group in contexts for _ in group]
    z = [target_value(lm, request, templates, layers[-1], config)[0] for request in requests]
    for i, layer in enumerate(layers):
        keys = [_mean_key(lm, request, templates, weights, layer) for request in requests]
        K = torch.stack(keys, dim=1).double()  # (d_ff, n)
        last = lm.block(layers[-1])
        h = torch.stack([at_subject(lm, request, "{}", last, "output") for request in requests])
        R = (torch.stack(z) - h).T / (len(layers) - i)  # (d_model, n)
        norm = lm.post_norm(layer)
        if norm is not None:  # the matrix writes before the norm
            m = [at_subject(lm, request, "{}", lm.mlp(layer), "output") for request in requests]
            R = before_norm(norm, torch.stack(m).T, R)
        R = R.double()
        P = projections[layer]
        system = P @ (K @ K.T + past[layer]) + l2 * torch.eye(len(P)).to(P)
        update = torch.linalg.solve(system, P @ K @ R.T).T
        apply_update(lm, layer, update.to(read_weight(lm, layer)))
        past[layer] += K @ K.T
    return z


def _mean_key(
    lm: LanguageModel,
    request: EditRequest,
    templates: Sequence[str],
    weights: Sequence[float],
    layer: int,
) -> Float[Tensor, "d_ff"]:
    """The key of a request at a layer, as a weighted mean over templates."""
    keys = [at_subject(lm, request, t, lm.down_proj(layer), "input") for t in templates]
    mean = torch.zeros_like(keys[0])
    for weight, key in zip(weights, keys, strict=True):
        mean = mean + weight * key
    return mean
