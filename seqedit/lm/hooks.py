"""Reading what goes into and comes out of modules during one forward pass."""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache

from .model import LanguageModel


class Call(NamedTuple):
    """How a module was called and what it returned."""

    args: tuple
    kwargs: dict[str, Any]
    output: Any

    @property
    def input(self) -> Tensor:
        return self.args[0]

    @property
    def hidden(self) -> Tensor:
        """The output tensor, whether the module returns it bare or first in a tuple (GPT-J)."""
        return self.output[0] if isinstance(self.output, tuple) else self.output


class Stop(Exception):
    """What was of interest has run."""


@contextmanager
def recording(
    modules: Mapping[Hashable, nn.Module], last: Hashable = None
) -> Iterator[dict[Any, Call]]:
    """The calls of `modules` inside, which ends early, without an error, after module `last`.

    Hooks are removed whatever happens.
    """
    calls: dict[Any, Call] = {}

    def hook(name):
        def record(module, args, kwargs, output):
            calls[name] = Call(args, kwargs, output)
            if name == last:
                raise Stop

        return record

    handles = [
        module.register_forward_hook(hook(name), with_kwargs=True)
        for name, module in modules.items()
    ]
    try:
        yield calls
    except Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def observe(
    lm: LanguageModel,
    ids: Tensor,
    modules: Mapping[Hashable, nn.Module],
    last: Hashable,
    cache: Cache | None = None,
) -> dict[Any, Call]:
    """One forward pass over right-padded `ids` (rows, tokens); the calls of `modules`, stopping after module `last`.

    Attention's keys and values stay in `cache`, if one is given.
    """
    with recording(modules, last) as calls:
        lm.model.base_model(input_ids=ids, past_key_values=cache, use_cache=cache is not None)
    return calls


@torch.no_grad()
def embed(lm: LanguageModel, ids: Tensor) -> Tensor:
    """The residual stream before the first block, (rows, tokens, d_model), of right-padded `ids`."""
    found = []

    def stop(module, args, kwargs):
        found.append(args[0] if args else kwargs["hidden_states"])
        raise Stop

    handle = lm.block(0).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        lm.model.base_model(input_ids=ids, use_cache=False)
    except Stop:
        pass
    finally:
        handle.remove()
    return found[0]
