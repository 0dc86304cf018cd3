"""The engine of a run: from a request file to edited weights and a record, resumable after any interruption."""

import json
import os
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from ..algebra.moments import load_moments, save_moments
from ..evaluation.edits import score_edits
from ..evaluation.report import evaluate
from ..files import save_tensors, write_json, write_text
from ..lm.architecture import read_weight, write_weight
from ..lm.contexts import load_contexts, sample_contexts
from ..lm.load import LanguageModel, load_model
from ..lm.statistics import collect_second_moments, fingerprint
from ..lm.tokens import validate_requests
from ..paths import DATA, MODEL, WORLD
from ..requests import EditRequest, batched, load_rounds
from ..sequential import EditPlan, EditState, Round, run_sequential
from .hyper import Settings, build_settings, read_hyper
from .records import file_digest, load_weights, provenance, read_lines, read_run, shown


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a run is asked to do; the command line's options, and the parameters of notebooks.

    Attributes:
        model: local folder or hub id; requests: file of edit requests.
        method: name in `seqedit.methods.METHODS`.
        settings: flat overrides of the method's settings (see `seqedit.study.hyper`).
        hyper: JSON file of settings, ours or a released repository's.
        batch_size: requests per round; None keeps the rounds of the file, or makes one.
        n_edits: only so many requests, from the first; None takes all.
        shuffle: put the requests in an order drawn from the seed first.
        seed: of the context templates, the order and generated text.
        contexts, moments, corpus: files to use instead of sampling templates and computing second moments.
        evaluate_every: also evaluate after every so many rounds; 0 evaluates at the end only.
        fluency: generate text at the end and measure its entropy.
        save_rounds: keep the edited matrices after every round.
    """

    model: str
    requests: Path
    method: str
    settings: dict[str, Any]
    hyper: Path | None = None
    batch_size: int | None = None
    n_edits: int | None = None
    shuffle: bool = False
    seed: int = 0
    contexts: Path | None = None
    moments: Path | None = None
    corpus: Path | None = None
    evaluate_every: int = 0
    fluency: bool = False
    save_rounds: bool = False
    device: str = "auto"


def is_embedded(model: str) -> bool:
    """Whether `model` is the project's own trained model, which brings its world, text and tuned settings."""
    return Path(model).exists() and MODEL.exists() and Path(model).samefile(MODEL)


def run(config: RunConfig, out: Path, *, say=lambda text: None) -> bool:
    """Edit, evaluate and write the record to `out`; resumes a run that was interrupted there.

    Writes weights.safetensors, rounds.jsonl, outcomes.jsonl, scores.jsonl and run.json. After every round a
    checkpoint appears atomically, so that an interrupted run continues to bit-identical weights.

    Args:
        say: receives remarks, one line each.

    Returns:
        False when the run was already complete, True when it was made now.

    Raises:
        ValueError: anything wrong with the input, before a weight is touched; also when `out` holds another run.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    job = prepare(config, say)
    record = _open(out, job)
    if record["finished"]:
        say(f"{out} is complete: {record['n_edits']} edits by {config.method}; nothing to do")
        return False
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "run.json", record)
    unedited = score_edits(job.lm, [r for batch in job.rounds for r in batch])
    state = _resume(out, job)
    if state.round:
        say(f"resuming after round {state.round} of {len(job.rounds)}")
    bar = tqdm(total=sum(map(len, job.rounds)), initial=sum(map(len, job.rounds[:state.round])), unit="edit",
               desc=config.method, disable=None)
    for done in run_sequential(job.lm, job.rounds[state.round:], job.settings.make(), job.plan, state):
        _write_round(out, job, done, unedited)
        record = record | {"rounds_done": done.state.round,
                           "seconds": round(record["seconds"] + done.seconds["total"], 3)}
        write_json(out / "run.json", record)
        bar.update(len(done.outcomes))
    bar.close()
    _finish(out, job, record)
    return True


@dataclass(frozen=True)
class Job:
    """Everything a run needs, checked."""

    config: RunConfig
    lm: LanguageModel
    rounds: list[list[EditRequest]]
    settings: Settings
    plan: EditPlan

    @property
    def edited_in(self) -> dict[int | str, int]:
        return {request.case_id: i for i, batch in enumerate(self.rounds) for request in batch}


def prepare(config: RunConfig, say=lambda text: None) -> Job:
    """Load and check requests, model, settings, context templates and second moments.

    Raises:
        ValueError: names the record, field or setting that is wrong.
    """
    rounds = _select(load_rounds(config.requests), config)
    lm = load_model(config.model, device=config.device)
    settings = _settings(config, lm, say)
    generator = torch.Generator().manual_seed(config.seed)
    contexts = (load_contexts(config.contexts) if config.contexts
                else sample_contexts(lm, generator, settings.context_lengths))
    validate_requests(lm, [request for batch in rounds for request in batch], contexts)
    for layer in settings.layers:
        if not 0 <= layer < lm.n_layers:
            raise ValueError(f"layers: {layer} is out of range; the model has layers 0 to {lm.n_layers - 1}")
    plan = EditPlan(layers=settings.layers, moments=_moments(config, lm, settings.layers), contexts=contexts,
                    target=settings.target, max_update_ratio=settings.max_update_ratio)
    plan.check(lm)
    return Job(config, lm, rounds, settings, plan)


def _select(rounds: list[list[EditRequest]], config: RunConfig) -> list[list[EditRequest]]:
    """Rounds of the file, or its requests shuffled, cut and batched as asked."""
    if config.batch_size is None and config.n_edits is None and not config.shuffle:
        return rounds
    requests = [request for batch in rounds for request in batch]
    if config.shuffle:
        random.Random(config.seed).shuffle(requests)
    if config.n_edits is not None and not 1 <= config.n_edits <= len(requests):
        raise ValueError(f"n_edits is {config.n_edits}; the file has {len(requests)} requests")
    requests = requests[:config.n_edits]
    return list(batched(requests, config.batch_size or len(requests)))


def _settings(config: RunConfig, lm: LanguageModel, say) -> Settings:
    """Overrides over the --hyper file over the embedded model's tuned settings over the published defaults."""
    values: dict[str, Any] = {}
    tuned = DATA / "hyper" / f"{config.method}.json"
    path = config.hyper or (tuned if is_embedded(config.model) and tuned.exists() else None)
    if path is not None:
        given = bool(config.moments or config.corpus)
        values, remarks = read_hyper(path, config.method, lm, given)
        for remark in remarks:
            say(f"{path.name}: {remark}")
        if config.hyper is None:
            say(f"settings of data/hyper/{path.name}, tuned for the embedded model")
    return build_settings(config.method, values | config.settings)


def _moments(config: RunConfig, lm: LanguageModel, layers: tuple[int, ...]) -> dict[int, Tensor]:
    """Second moments from a file, or computed over a text and kept in the cache."""
    if config.moments:
        moments = load_moments(config.moments)
        if moments.fingerprint and moments.fingerprint != fingerprint(lm):
            raise ValueError(f"moments: {config.moments} belongs to another model (fingerprint {moments.fingerprint}, "
                             f"this model has {fingerprint(lm)}); make its own with `seqedit moments`")
        return moments.C
    corpus = config.corpus or (WORLD / "corpus.txt" if is_embedded(config.model) else None)
    if corpus is None:
        raise ValueError("moments: give second moments with --moments, or a text to compute them from with --corpus")
    return {layer: C for layer in layers for C in [cached_moments(lm, corpus, layer)]}


def cached_moments(lm: LanguageModel, corpus: Path, layer: int) -> Tensor:
    """C of one layer over a text file, one document a line; computed once and kept in SEQEDIT_CACHE."""
    cache = Path(os.environ.get("SEQEDIT_CACHE", Path.home() / ".cache" / "seqedit"))
    path = cache / f"moments-{fingerprint(lm)}-{file_digest(corpus)}-{layer}.safetensors"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        texts = corpus.read_text(encoding="utf-8").splitlines()
        save_moments(path, collect_second_moments(lm, texts, [layer]), fingerprint=fingerprint(lm))
    return load_moments(path).C[layer]


def _open(out: Path, job: Job) -> dict[str, Any]:
    """A new record, or the one in `out` if it is of the same run.

    Raises:
        ValueError: `out` holds a run with other parameters; the message says which.
    """
    config, settings = job.config, job.settings
    files = {name: file_digest(path) for name in ("requests", "contexts", "moments", "corpus")
             if (path := getattr(config, name)) is not None}
    parameters = {
        "method": config.method, "seed": config.seed, "n_edits": sum(map(len, job.rounds)),
        "batch_sizes": sorted({len(batch) for batch in job.rounds}), "shuffle": config.shuffle,
        "model": shown(Path(config.model)) if Path(config.model).exists() else config.model,
        "fingerprint": fingerprint(job.lm), "files": files, **json.loads(json.dumps(asdict(settings))),
        "evaluate_every": config.evaluate_every, "fluency": config.fluency, "save_rounds": config.save_rounds}
    fresh = {"method": config.method, "seed": config.seed, "n_edits": parameters["n_edits"], "finished": False,
             "parameters": parameters, "contexts": job.plan.contexts, "provenance": provenance(job.lm.device),
             "rounds_done": 0, "seconds": 0.0}
    if not (out / "run.json").exists():
        return fresh
    found = read_run(out)
    for name, value in parameters.items():
        if found["parameters"].get(name) != value:
            raise ValueError(f"out: {out} holds a run with {name} = {found['parameters'].get(name)!r}, now it is "
                             f"{value!r}; choose another folder, or remove this one")
    if not found["finished"] and found["provenance"]["code"] != fresh["provenance"]["code"]:
        raise ValueError(f"out: {out} was begun by other code than today's; remove the folder and start anew")
    return found


def _write_round(out: Path, job: Job, done: Round, unedited: pd.DataFrame) -> None:
    """Append the round's lines, then replace the checkpoint: lines beyond the checkpoint are cut off on resuming."""
    edits = sum(map(len, job.rounds[:done.state.round]))
    row = {"round": done.index, "edits": edits, "residual_before": done.residual_before,
           "residual_after": done.residual_after, "seconds": done.seconds, "layers": [asdict(o) for o in done.layers]}
    _append(out / "rounds.jsonl", [row])
    _append(out / "outcomes.jsonl", [{"round": done.index} | asdict(outcome) for outcome in done.outcomes])
    last = done.state.round == len(job.rounds)
    if last or (job.config.evaluate_every and done.state.round % job.config.evaluate_every == 0):
        _append(out / "scores.jsonl", [{"round": done.index, "edits": edits} | _evaluate(job, edits, unedited, last)])
    weights = {f"W.{layer}": read_weight(job.lm, layer) for layer in job.plan.layers}
    if job.config.save_rounds:
        save_tensors(out / f"round-{done.index}.safetensors", weights)
    state = {f"original.{layer}": W for layer, W in done.state.original.items()}
    state |= {f"keys.{layer}": K for layer, K in done.state.keys.items()}
    save_tensors(out / "checkpoint.safetensors", weights | state | {"round": torch.tensor(done.state.round)})


def _evaluate(job: Job, edits: int, unedited: pd.DataFrame, last: bool) -> dict:
    """Metrics of the requests edited so far; fluency at the end only."""
    requests = [request for batch in job.rounds for request in batch][:edits]
    done = {r.case_id for r in requests}
    generator = torch.Generator().manual_seed(job.config.seed) if job.config.fluency and last else None
    return evaluate(job.lm, requests, unedited=unedited,
                    rounds={case: i for case, i in job.edited_in.items() if case in done},
                    world=WORLD if is_embedded(job.config.model) else None, generator=generator)


def _resume(out: Path, job: Job) -> EditState:
    """The state to go on from, its weights put into the model and the record cut back to it."""
    path = out / "checkpoint.safetensors"
    tensors = load_file(path) if path.exists() else {}
    done = int(tensors["round"]) if tensors else 0
    for name in ("rounds", "outcomes", "scores"):
        rows = [row for row in read_lines_whole(out / f"{name}.jsonl") if row["round"] < done]
        write_text(out / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    if not tensors:
        return EditState.start(job.lm, job.plan.layers)
    for layer in job.plan.layers:
        write_weight(job.lm, layer, tensors[f"W.{layer}"])
    return EditState(done, {layer: tensors[f"original.{layer}"] for layer in job.plan.layers},
                     {layer: tensors[f"keys.{layer}"] for layer in job.plan.layers})


def read_lines_whole(path: Path) -> list[dict]:
    """Like `read_lines`, without a last line that was cut off while it was written."""
    if path.exists():
        text = path.read_text(encoding="utf-8")
        write_text(path, text[:text.rfind("\n") + 1])
    return read_lines(path)


def _finish(out: Path, job: Job, record: dict[str, Any]) -> None:
    """weights.safetensors, then run.json with `finished`, then the checkpoint goes."""
    tensors = {f"W.{layer}": read_weight(job.lm, layer) for layer in job.plan.layers}
    files = [out / f"round-{i}.safetensors" for i in range(len(job.rounds))] if job.config.save_rounds else []
    for i, file in enumerate(files):
        tensors |= {name.replace("W.", f"W.{i}."): tensor for name, tensor in load_file(file).items()}
    save_tensors(out / "weights.safetensors", tensors)
    write_json(out / "run.json", record | {"finished": True, "rounds_done": len(job.rounds)})
    for file in [out / "checkpoint.safetensors", *files]:
        file.unlink(missing_ok=True)


def _append(path: Path, rows: list[dict]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def put_weights(lm: LanguageModel, folder: Path) -> None:
    """Put the edited matrices of a finished run into a freshly loaded model.

    Raises:
        ValueError: the run was made on another model.
    """
    made_on = read_run(folder)["parameters"]["fingerprint"]
    if made_on != fingerprint(lm):
        raise ValueError(f"edited: {folder} was made on another model (fingerprint {made_on}, this one has "
                         f"{fingerprint(lm)})")
    for layer, W in load_weights(folder).items():
        write_weight(lm, layer, W)


def export(model: str, edited: Path, out: Path) -> None:
    """Write the edited model as an ordinary transformers folder with its tokenizer.

    Raises:
        ValueError: `out` exists, or the run was made on another model.
    """
    if out.exists():
        raise ValueError(f"out: {out} exists already; choose another folder")
    lm = load_model(model, device="cpu")
    put_weights(lm, edited)
    part = out.with_name(out.name + ".part")
    lm.model.save_pretrained(part)
    lm.tokenizer.save_pretrained(part)
    os.replace(part, out)
