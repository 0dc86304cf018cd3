"""The plain way, one request at a time: the yardstick of tests and benchmarks, never used for editing.

Written from the published procedures, with whole forward passes, hooks, `torch.optim.Adam` and the dense system that
the released code solves; nothing is shared with `lm/targets.py`, `lm/keys.py` or `algebra`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from ..lm.keys import Contexts
from ..lm.model import LanguageModel
from ..lm.target_loss import TargetConfig
from ..lm.weights import apply_update, read_weight
from ..requests.request import EditRequest


def target_value(
    lm: LanguageModel,
    request: EditRequest,
    templates: Sequence[str],
    layer: int,
    config: TargetConfig,
    module: nn.Module | None = None,
) -> tuple[Tensor, int, float]:
    """z of one request by AlphaEdit's published procedure: full forward passes, a hook that adds δ, `torch.optim.Adam`.

    δ is added to the block's output, or before the norm that the MLP's output passes, where there is one.

    Args:
        module: where h is read; the block of `layer` unless given (ROME: its MLP).

    Returns:
        z (d_model,), the number of Adam steps, and the last total loss.
    """
    model, tokenizer, block = lm.model, lm.tokenizer, lm.block(layer)
    target = tokenizer(" " + request.target_new, add_special_tokens=False)["input_ids"]
    rows, lookups = [], []
    for template in [*(t.replace("{}", request.prompt) for t in templates), config.kl_prompt]:
        text = template.replace("{}", request.subject)
        lookups.append(
            len(tokenizer(template[: template.index("{}")] + request.subject)["input_ids"]) - 1
        )
        rows.append(
            tokenizer(text)["input_ids"] + (target[:-1] if template is not config.kl_prompt else [])
        )
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=lm.device)
    mask = torch.tensor(
        [[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=lm.device
    )
    delta = torch.zeros(
        lm.config.hidden_size, dtype=model.dtype, device=lm.device, requires_grad=True
    )
    at, found = lm.mlp(layer) if lm.post_norm(layer) else block, {}

    def read(_, __, output):
        hidden = output[0] if isinstance(output, tuple) else output
        found.setdefault("h", hidden[0, lookups[0]].detach().clone())

    def out(_, __, output):
        found["z"] = (
            (output[0] if isinstance(output, tuple) else output)[0, lookups[0]].detach().clone()
        )

    def shift(_, __, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        for row, position in enumerate(lookups):
            hidden[row, position] += delta
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handles = [
        (module or at).register_forward_hook(read),
        at.register_forward_hook(shift),
        (module or block).register_forward_hook(out),
    ]
    optimizer, steps = torch.optim.Adam([delta], lr=config.lr), 0
    try:
        for forward in range(1, config.steps + 1):
            log_p = log_softmax(model(input_ids=ids, attention_mask=mask).logits, dim=-1)
            said = [
                log_p[i, len(rows[i]) - len(target) + t, target[t]]
                for i in range(len(templates))
                for t in range(len(target))
            ]
            neutral = log_p[-1, lookups[-1]]
            p0 = found.setdefault("p0", neutral.detach().clone())
            loss = (
                -torch.stack(said).mean()
                + config.kl * kl_div(p0, neutral, log_target=True, reduction="sum")
                + config.weight_decay * delta.norm() / found["h"].norm() ** 2
            )
            if loss < config.stop_loss or forward == config.steps:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
            limit = config.clamp * found["h"].norm()
            if delta.norm() > limit:
                with torch.no_grad():
                    delta.mul_(limit / delta.norm())
    finally:
        for handle in handles:
            handle.remove()
    return found["h"] + delta.detach() if at is block else found["z"], steps, loss.item()


@torch.no_grad()
def at_subject(
    lm: LanguageModel, request: EditRequest, template: str, module: nn.Module, side: str
) -> Tensor:
    """Input or output (`side`) of a module at the subject's last token of a filled template, by a whole pass."""
    text = template.replace("{}", request.prompt)
    position = len(lm.tokenizer(text[: text.index("{}")] + request.subject)["input_ids"]) - 1
    found = {}

    def read(_, args, output):
        found["input"], found["output"] = (
            args[0],
            output[0] if isinstance(output, tuple) else output,
        )

    handle = module.register_forward_hook(read)
    try:
        ids = torch.tensor(
            [lm.tokenizer(text.replace("{}", request.subject))["input_ids"]], device=lm.device
        )
        lm.model(input_ids=ids)
    finally:
        handle.remove()
    return found[side][0, position]


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
    """One round of AlphaEdit, written into the model: targets one by one, then layer by layer the dense system

        [P (K Kᵀ + K_pK_pᵀ) + L2·I] X = P K Rᵀ,  Δ = Xᵀ,

    with P and the running sum K_pK_pᵀ as d_ff × d_ff matrices in float64. `past` is added to in place.

    Returns:
        The targets z.
    """
    templates = [t for group in contexts for t in group]
    weights = [1 / (len(contexts) * len(group)) for group in contexts for _ in group]
    z = [target_value(lm, request, templates, layers[-1], config)[0] for request in requests]
    for i, layer in enumerate(layers):
        K = torch.stack(
            [
                sum(
                    w * at_subject(lm, request, t, lm.down_proj(layer), "input")
                    for w, t in zip(weights, templates, strict=True)
                )
                for request in requests
            ],
            dim=1,
        ).double()
        h = torch.stack(
            [at_subject(lm, request, "{}", lm.block(layers[-1]), "output") for request in requests]
        )
        R = (torch.stack(z) - h).T.double() / (len(layers) - i)
        P = projections[layer]
        system = P @ (K @ K.T + past[layer]) + l2 * torch.eye(len(P)).to(P)
        apply_update(
            lm, layer, torch.linalg.solve(system, P @ K @ R.T).T.to(read_weight(lm, layer))
        )
        past[layer] += K @ K.T
    return z
