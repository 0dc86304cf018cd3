"""Reading what goes into and comes out of modules during one forward pass."""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache

from .load import LanguageModel


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


class _Stop(Exception):
    """The last module of interest has run."""


@torch.no_grad()
def observe(lm: LanguageModel, ids: Tensor, modules: Mapping[Hashable, nn.Module], last: Hashable,
            cache: Cache | None = None) -> dict[Any, Call]:
    """One forward pass over right-padded `ids` (rows, tokens); the calls of `modules`, stopping after module `last`.

    Hooks are removed whatever happens. Attention's keys and values stay in `cache`, if one is given.
    """
    calls: dict[Any, Call] = {}

    def hook(name):
        def record(module, args, kwargs, output):
            calls[name] = Call(args, kwargs, output)
            if name == last:
                raise _Stop
        return record

    handles = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in modules.items()]
    try:
        lm.model.base_model(input_ids=ids, past_key_values=cache, use_cache=cache is not None)
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return calls
