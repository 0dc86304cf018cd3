"""Sequential model editing: write facts into a model's weights, round by round, and measure it.

The names below are the public ones; every other name belongs to a room of the package, see the
chapter "Architecture" of the book. They are imported when first used, so that `import seqedit`
costs nothing.

* A run as the command line makes it: `RunConfig` says what to edit and how, `prepare` loads and
  checks everything, `run_sequential` edits round by round, `handed_over` puts the model into the
  state in which the method hands it over, `evaluate` measures, `export` writes a folder. `run` does
  all of this and keeps a record, which `load_run` reads.
* By hand: `load_model`, `load_requests`, `batched`, `make_method`, and an `EditPlan` made of
  `corpus_moments` or `load_moments`, `sample_contexts` and a `TargetConfig`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .editing.sequential import handed_over, run_sequential
    from .editing.state import EditPlan
    from .evaluation.report import evaluate
    from .exchange.edited import save_folder as export
    from .lm.contexts import sample_contexts
    from .lm.load import load_model
    from .lm.target_loss import TargetConfig
    from .methods.catalogue import make_method
    from .moments.cache import corpus_moments
    from .moments.files import load_moments
    from .requests.published import load_requests
    from .requests.request import EditRequest, batched
    from .runs.config import RunConfig
    from .runs.engine import run
    from .runs.job import prepare
    from .runs.records import load_run

__version__ = "0.1.0"

__all__ = [
    "EditPlan",
    "EditRequest",
    "RunConfig",
    "TargetConfig",
    "batched",
    "corpus_moments",
    "evaluate",
    "export",
    "handed_over",
    "load_model",
    "load_moments",
    "load_requests",
    "load_run",
    "make_method",
    "prepare",
    "run",
    "run_sequential",
    "sample_contexts",
]

_HOMES = {
    "EditPlan": "editing.state",
    "EditRequest": "requests.request",
    "RunConfig": "runs.config",
    "TargetConfig": "lm.target_loss",
    "batched": "requests.request",
    "corpus_moments": "moments.cache",
    "evaluate": "evaluation.report",
    "export": "exchange.edited:save_folder",
    "handed_over": "editing.sequential",
    "load_model": "lm.load",
    "load_moments": "moments.files",
    "load_requests": "requests.published",
    "load_run": "runs.records",
    "make_method": "methods.catalogue",
    "prepare": "runs.job",
    "run": "runs.engine",
    "run_sequential": "editing.sequential",
    "sample_contexts": "lm.contexts",
}
"""Public name → its module, and after a colon its name there if that is another."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(f"{__name__}.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
