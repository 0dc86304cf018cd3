"""The identity of a run: a digest of everything it was asked to do."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..base.files import file_digest
from ..requests.joining import SPACE
from .config import RunConfig
from .records import shown
from .settings import Settings


def run_parameters(
    config: RunConfig,
    settings: Settings,
    *,
    fingerprint: str,
    n_edits: int,
    requests: str | dict[str, Any],
) -> dict[str, Any]:
    """Everything that a run is asked to do, as its record keeps it: JSON values only.

    Args:
        fingerprint: of the unedited model, see `seqedit.lm.fingerprint.fingerprint`.
        n_edits: how many edits the run makes.
        requests: digest of the request file, or what identifies a benchmark.
    """
    names = ("contexts", "moments", "corpus", "kept", "references", "perplexity_text")
    given = {name: getattr(config, name) for name in names}
    parameters = {
        "method": settings.method,
        "seed": config.seed,
        "n_edits": n_edits,
        "shuffle": config.shuffle,
        "model": shown(Path(config.model)) if Path(config.model).exists() else config.model,
        "fingerprint": fingerprint,
        "files": {"requests": requests}
        | {name: file_digest(path) for name, path in given.items() if path},
        **json.loads(json.dumps(asdict(settings))),
        "evaluate_every": config.evaluate_every,
        "fluency": config.fluency,
        "save_rounds": config.save_rounds,
    }
    if config.measures:
        parameters["measures"] = [*config.measures]
    if not settings.target.target_end:  # as published, and as in records from before the setting
        del parameters["target"]["target_end"]
    of_targets = parameters["target"].pop("target_separator")
    parameters["target"]["separator"] = settings.separator if of_targets is None else of_targets
    if parameters.pop("separator") != SPACE:  # as in records from before the setting
        parameters["separator"] = settings.separator
    if config.stream:
        parameters["stream"] = config.stream
    if config.evaluate_sample is not None:
        parameters["evaluate_sample"] = config.evaluate_sample
    if config.clean:
        parameters["clean"] = True
    if config.undoable:
        parameters["undoable"] = True
    if config.chat:
        parameters["chat"] = True
    if config.wild:
        parameters["wild"] = True
    if config.dtype != "float32":
        parameters["dtype"] = config.dtype
    return parameters


def run_id(parameters: dict[str, Any]) -> str:
    """The digest of a run's parameters, in 12 hexadecimal digits.

    Two runs have the same id exactly if they were asked to do the same. The path of the model does
    not count, because its fingerprint is among the parameters.
    """
    asked = {"dtype": "float32"} | parameters
    del asked["model"]
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
