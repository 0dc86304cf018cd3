"""Watch or change what modules of a model compute during a forward pass."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache

from .model import LanguageModel

Name = TypeVar("Name", bound=Hashable)

BeforeHook = Callable[[nn.Module, tuple, dict[str, Any]], tuple[tuple, dict[str, Any]] | None]
"""Called with (module, args, kwargs) before the module runs; may return other (args, kwargs)."""

AfterHook = Callable[[nn.Module, tuple, dict[str, Any], Any], Any]
"""Called with (module, args, kwargs, output) after the module ran; may return another output."""


@contextmanager
def forward_hooks(
    *,
    before: Iterable[tuple[nn.Module, BeforeHook]] = (),
    after: Iterable[tuple[nn.Module, AfterHook]] = (),
) -> Iterator[None]:
    """Attach hooks to modules for the duration of a `with` block; remove them whatever happens.

    Args:
        before: pairs of a module and what is called before it runs.
        after: pairs of a module and what is called after it ran.
    """
    with ExitStack() as attached:
        for module, before_hook in before:
            attached.enter_context(module.register_forward_pre_hook(before_hook, with_kwargs=True))
        for module, hook in after:
            attached.enter_context(module.register_forward_hook(hook, with_kwargs=True))
        yield


class Call(NamedTuple):
    """How a module was called, and what it returned."""

    args: tuple
    kwargs: dict[str, Any]
    output: Any

    @property
    def input(self) -> Tensor:
        """The first positional argument."""
        return self.args[0]

    @property
    def hidden(self) -> Tensor:
        """The output tensor, which some modules return first in a tuple (GPT-J's blocks)."""
        return self.output[0] if isinstance(self.output, tuple) else self.output


class Stop(Exception):
    """Raised inside a forward pass once all that was asked for has been computed."""


@contextmanager
def recording(
    modules: Mapping[Name, nn.Module], last: Name | None = None
) -> Iterator[dict[Name, Call]]:
    """Record the calls of `modules` inside a `with` block.

    Args:
        modules: name → module.
        last: name of the module after whose call the block ends early, without an error.

    Yields:
        name → the module's latest call, filled while the block runs.
    """
    calls: dict[Name, Call] = {}

    def recorder(name: Name) -> AfterHook:
        def record(module, args, kwargs, output):
            calls[name] = Call(args, kwargs, output)
            if name == last:
                raise Stop

        return record

    try:
        with forward_hooks(after=[(module, recorder(name)) for name, module in modules.items()]):
            yield calls
    except Stop:
        pass


@torch.no_grad()
def observe(
    lm: LanguageModel,
    ids: Int[Tensor, "rows tokens"],
    modules: Mapping[Name, nn.Module],
    last: Name,
    cache: Cache | None = None,
) -> dict[Name, Call]:
    """Run one forward pass over right-padded `ids` and return the calls of `modules`.

    Args:
        ids: token ids, see `padded`.
        modules: name → module.
        last: name of the module after which the pass stops.
        cache: receives the attention keys and values, if given.
    """
    with recording(modules, last) as calls:
        lm.model.base_model(input_ids=ids, past_key_values=cache, use_cache=cache is not None)
    return calls


@torch.no_grad()
def embed(
    lm: LanguageModel, ids: Int[Tensor, "rows tokens"]
) -> Float[Tensor, "rows tokens d_model"]:
    """Return the residual stream that enters the first block, for right-padded `ids`."""
    entered = []

    def stop(module, args, kwargs):
        entered.append(args[0] if args else kwargs["hidden_states"])
        raise Stop

    try:
        with forward_hooks(before=[(lm.block(0), stop)]):
            lm.model.base_model(input_ids=ids, use_cache=False)
    except Stop:
        pass
    return entered[0]
