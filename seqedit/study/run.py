"""The engine of a run: from a request file to edited weights and a record, resumable after any interruption."""

import json
import random
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ..algebra.moments import load_moments
from ..evaluation.edits import score_edits
from ..evaluation.report import evaluate
from ..files import write_json
from ..lm.contexts import load_contexts, sample_contexts
from ..lm.load import LanguageModel, load_model
from ..lm.statistics import fingerprint
from ..lm.tokens import validate_requests
from ..methods import canonical
from ..paths import DATA, MODEL, MOMENTS, WORLD
from ..requests import EditRequest, batched, load_rounds
from ..rounds import EditPlan, Round
from ..sequential import handed_over, run_sequential
from .checkpoint import begin, finish, resume, save_round
from .collect import check_belongs
from .hyper import Settings, build_settings, read_hyper
from .moments import check_layers, corpus_moments
from .records import file_digest, provenance, reopen, shown


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a run is asked to do; the command line's options, and the parameters of notebooks.

    Attributes:
        model: local folder or hub id; requests: file of edit requests.
        method: name in `seqedit.methods.METHODS`, combinators after "+".
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
        dtype: of the model's weights; the edited matrices are kept in float32 as well.
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
    dtype: str = "float32"
    device: str = "auto"

    def __post_init__(self):
        object.__setattr__(self, "method", canonical(self.method))


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
        ValueError: anything wrong with the input, before anything is written; also when `out` holds another run.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    job = prepare(config, say)
    record = reopen(out, _fresh(job))
    if record["finished"]:
        say(f"{out} is complete: {record['n_edits']} edits by {config.method}; nothing to do")
        return False
    unedited = score_edits(job.lm, [r for batch in job.rounds for r in batch])
    state = resume(out, job.lm, job.plan.layers)
    if state.round:
        say(f"resuming after round {state.round} of {len(job.rounds)}")
        if record["provenance"]["threads"] != torch.get_num_threads():
            say(f"begun with {record['provenance']['threads']} threads, now {torch.get_num_threads()}: the weights may "
                "differ in round-off from an uninterrupted run (OMP_NUM_THREADS)")
    bar = tqdm(total=sum(map(len, job.rounds)), initial=sum(map(len, job.rounds[:state.round])), unit="edit",
               desc=config.method, disable=None)
    method = job.settings.make()
    for done in run_sequential(job.lm, job.rounds[state.round:], method, job.plan, state):
        if done.index == 0:                                               # now nothing of the input can be refused
            begin(out, record)
        with handed_over(job.lm, method, done.state):
            rows = _rows(job, done, unedited)
        save_round(out, job.lm, done.state, rows, keep=config.save_rounds)
        state = done.state
        record = record | {"rounds_done": done.state.round,
                           "seconds": round(record["seconds"] + done.seconds["total"], 3)}
        write_json(out / "run.json", record)
        bar.update(len(done.outcomes))
    bar.close()
    with handed_over(job.lm, method, state):
        finish(out, job.lm, state, len(job.rounds), record)
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
    in_file = load_rounds(config.requests)
    lm = load_model(config.model, device=config.device, dtype=getattr(torch, config.dtype))
    settings = _settings(config, lm, say)
    check_layers(lm, settings.layers)
    rounds = _select(in_file, config, settings.batch_size)
    generator = torch.Generator().manual_seed(config.seed)
    longest = max((length for length, _ in settings.context_lengths), default=0)
    if longest >= lm.max_positions:
        raise ValueError(f"context_lengths: {longest} tokens, but the model has {lm.max_positions} positions")
    contexts = (load_contexts(config.contexts) if config.contexts
                else sample_contexts(lm, generator, settings.context_lengths))
    validate_requests(lm, [request for batch in rounds for request in batch], contexts)
    plan = EditPlan(layers=settings.layers, moments=_moments(config, lm, settings.layers), contexts=contexts,
                    target=settings.target, max_update_ratio=settings.max_update_ratio)
    plan.check(lm)
    return Job(config, lm, rounds, settings, plan)


def _select(in_file: list[list[EditRequest]], config: RunConfig, batch_size: int | None) -> list[list[EditRequest]]:
    """The file's requests shuffled and cut as asked, in rounds of `batch_size` or else of the file's own sizes."""
    requests = [request for batch in in_file for request in batch]
    if config.shuffle:
        random.Random(config.seed).shuffle(requests)
    if config.n_edits is not None and not 1 <= config.n_edits <= len(requests):
        raise ValueError(f"n_edits is {config.n_edits}; the file has {len(requests)} requests")
    requests = requests[:config.n_edits]
    if batch_size is not None:
        return list(batched(requests, batch_size))
    left = iter(requests)
    rounds = [list(islice(left, len(batch))) for batch in in_file]
    return [batch for batch in rounds if batch]


def _settings(config: RunConfig, lm: LanguageModel, say) -> Settings:
    """Overrides over the --hyper file over the embedded model's tuned settings over the published defaults."""
    values: dict[str, Any] = {}
    tuned = DATA / "hyper" / f"{config.method.partition('+')[0]}.json"
    path = config.hyper or (tuned if is_embedded(config.model) and tuned.exists() else None)
    if path is not None:
        given = bool(config.moments or config.corpus)
        values, remarks = read_hyper(path, config.method, lm, given)
        for remark in remarks:
            say(f"{path.name}: {remark}")
        if config.hyper is None:
            say(f"settings of data/hyper/{path.name}, tuned for the embedded model")
    if config.batch_size is not None:
        values["batch_size"] = config.batch_size
    return build_settings(config.method, values | config.settings)


def _moments(config: RunConfig, lm: LanguageModel, layers: tuple[int, ...]) -> dict[int, Tensor]:
    """Second moments from a file, or computed over a text and kept in the cache."""
    if config.moments:
        moments = load_moments(config.moments)
        check_belongs(config.moments, moments, lm)
        return moments.C
    embedded = is_embedded(config.model)
    if config.corpus is None and embedded and MOMENTS.exists():
        shipped = load_moments(MOMENTS)
        if shipped.fingerprint == fingerprint(lm) and set(layers) <= set(shipped.C):
            return shipped.C
    corpus = config.corpus or (WORLD / "corpus.txt" if embedded else None)
    if corpus is None:
        raise ValueError("moments: give second moments with --moments, or a text to compute them from with --corpus")
    return corpus_moments(lm, corpus, layers)


def _fresh(job: Job) -> dict[str, Any]:
    """The content of run.json before the first round."""
    config = job.config
    files = {name: file_digest(path) for name in ("requests", "contexts", "moments", "corpus")
             if (path := getattr(config, name)) is not None}
    parameters = {
        "method": config.method, "seed": config.seed, "n_edits": sum(map(len, job.rounds)), "shuffle": config.shuffle,
        "model": shown(Path(config.model)) if Path(config.model).exists() else config.model,
        "fingerprint": fingerprint(job.lm), "files": files, **json.loads(json.dumps(asdict(job.settings))),
        "evaluate_every": config.evaluate_every, "fluency": config.fluency, "save_rounds": config.save_rounds}
    if config.dtype != "float32":
        parameters["dtype"] = config.dtype
    return {"method": config.method, "seed": config.seed, "n_edits": parameters["n_edits"], "finished": False,
            "parameters": parameters, "contexts": job.plan.contexts, "provenance": provenance(job.lm.device),
            "rounds_done": 0, "seconds": 0.0}


def _rows(job: Job, done: Round, unedited: pd.DataFrame) -> dict[str, list[dict]]:
    """What a round adds to each table of the record."""
    edits = sum(map(len, job.rounds[:done.state.round]))
    rows = {"rounds": [{"round": done.index, "edits": edits, "residual_before": done.residual_before,
                        "residual_after": done.residual_after, "target_norm": done.target_norm, "seconds": done.seconds,
                        "layers": [asdict(layer) for layer in done.layers]}],
            "outcomes": [{"round": done.index} | asdict(outcome) for outcome in done.outcomes]}
    last = done.state.round == len(job.rounds)
    if last or (job.config.evaluate_every and done.state.round % job.config.evaluate_every == 0):
        rows["scores"] = [{"round": done.index, "n_edits": edits} | _evaluate(job, edits, unedited, last)]
    return rows


def _evaluate(job: Job, edits: int, unedited: pd.DataFrame, last: bool) -> dict:
    """Metrics of the requests edited so far; fluency at the end only."""
    requests = [request for batch in job.rounds for request in batch][:edits]
    done = {r.case_id for r in requests}
    generator = torch.Generator().manual_seed(job.config.seed) if job.config.fluency and last else None
    return evaluate(job.lm, requests, unedited=unedited,
                    rounds={case: i for case, i in job.edited_in.items() if case in done},
                    world=WORLD if is_embedded(job.config.model) else None, generator=generator)
