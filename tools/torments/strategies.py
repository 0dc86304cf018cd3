"""Random requests, files, settings and texts: read or refused in one line, never anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .commands import build_lm
from .faults import Tally

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
FIELDS = ("case_id", "prompt", "subject", "target_new", "target_true", "relation_id", "locality")

texts = st.text(max_size=20)
escapes = st.text(st.characters(), max_size=20)  # as JSON makes them: half characters, too
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | escapes,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(escapes, inner, max_size=3),
    max_leaves=8,
)
records = st.fixed_dictionaries({}, optional={name: values | escapes for name in FIELDS})
names = st.sampled_from(("lam", "lr", "clamp", "steps", "layers", "kl", "batch_size", "mom2_n"))


def strategies(tally: Tally, examples: int, work: Path) -> None:
    """Try so many examples of each kind."""
    from seqedit.lm.keys import BARE
    from seqedit.lm.validation import validate_requests
    from seqedit.requests.published import load_requests
    from seqedit.requests.request import EditRequest
    from seqedit.runs.hyper_files import read_hyper
    from seqedit.runs.settings import build_settings, parse_assignments

    lm = build_lm("gpt2")

    def file(name: str, content: bytes) -> Path:
        path = work / name
        path.write_bytes(content)
        return path

    def request(text: tuple[str, str, str]) -> None:
        prompt, subject, target = text
        one = EditRequest(case_id=1, prompt=prompt + "{}", subject=subject, target_new=target)
        validate_requests(lm, [one], BARE)

    trials: dict[str, tuple[Callable, st.SearchStrategy]] = {
        "requests": (
            lambda rows: load_requests(file("r.json", json.dumps(rows).encode())),
            st.lists(records, max_size=3),
        ),
        **{
            f"format {suffix}": (
                lambda content, suffix=suffix: load_requests(file("f" + suffix, content)),
                st.binary(max_size=60) | texts.map(lambda text: text.encode("utf-8", "replace")),
            )
            for suffix in SUFFIXES
        },
        "hyper files": (
            lambda value: build_settings(
                "memit",
                read_hyper(file("h.json", json.dumps(value).encode()), "memit", lm, True)[0],
            ),
            st.dictionaries(names | escapes, values, max_size=4),
        ),
        "settings": (
            lambda words: build_settings("memit", {"layers": [0]} | parse_assignments(words)),
            st.lists(st.tuples(names, escapes).map("=".join), max_size=3),
        ),
        "tokens": (request, st.tuples(texts, texts.filter(str.strip), texts.filter(str.strip))),
    }
    for name, (act, strategy) in trials.items():
        _try(tally, name, act, strategy, examples)


def _try(
    tally: Tally, name: str, act: Callable, strategy: st.SearchStrategy, examples: int
) -> None:
    """Try examples of one kind; a ValueError of one line is a refusal."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def one(value: object) -> None:
        problem = ""
        try:
            act(value)
        except ValueError as error:
            problem = "" if "\n" not in str(error).strip() else f"several lines: {error!r:.200}"
        except Exception as error:
            problem = f"{type(error).__name__}: {error!s:.200}, for {value!r:.200}"
        tally.note("random input", name, problem)

    one()
