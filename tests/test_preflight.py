"""What is checked before a long study: the committed counts are those of today's files, and every
fault that they are to find is found.
"""

import json
from dataclasses import replace

import pytest

from seqedit.base.paths import DATA, FACTS, WORLD
from seqedit.requests.published import load_requests
from seqedit.requests.record import Probe
from seqedit.study.calibration import Calibration
from seqedit.study.power import Spread
from seqedit.study.preflight import (
    GROUNDS,
    Ground,
    Subjects,
    count_probes,
    count_shared,
    is_sound,
    power_table,
    preflight,
    searches,
)

RECORD = json.loads((DATA / "preflight.json").read_text(encoding="utf-8"))["preflight"]


@pytest.mark.parametrize("ground", GROUNDS, ids=lambda ground: ground.requests)
def test_the_committed_counts(ground: Ground):
    """Those of today's files; no counted probe asks for an edited fact."""
    row = next(row for row in RECORD if row["requests"] == ground.requests)
    assert is_sound(row) and len(RECORD) == len(GROUNDS)
    if ground.models == "embedded":  # whose probes are clean beforehand
        assert not any(probe["left_out"] for probe in row["probes"])
        assert not any(row["calibration"][name] for name in ("subjects", "probes", "kept"))
    if not ground.is_here:
        pytest.skip(f"{ground.requests} is not on this machine")
    assert preflight([ground]) == [row]


def test_faults_are_found():
    """A probe of an edited fact under another wording or in other letters; one about its subject;
    one that runs would count; a shared fact.
    """
    requests = load_requests("world")[:20]
    first, second, third = requests[:3]
    clean = {row["kind"]: row for row in count_probes(requests, ["Nobody plays"])}
    assert clean["neighborhood"]["left_out"] == clean["neighborhood"]["edited"] == 0
    prompts = (
        second.text,  # as edited
        f"They say that {second.subject}",  # of a relation of its own
        f"They say that {second.subject}ish",  # another word
    )
    planted = replace(first, neighborhood_prompts=prompts, relation_id=second.relation_id)
    planted = replace(planted, locality=(Probe(third.text, "x"), Probe("Nobody is", "x")))
    found = {r["kind"]: r for r in count_probes([planted, *requests[1:]], [second.text, "Nobody"])}
    before = clean["neighborhood"]["probes"] - len(first.neighborhood_prompts)
    assert found["neighborhood"] == {
        "kind": "neighborhood",
        "probes": before + 3,
        "left_out": 2,
        "edited": 0,
        "near": 0,
    }
    assert found["locality"]["left_out"] == 1 and found["kept"]["left_out"] == 1
    first_letter, *others = second.subject
    shouted = (
        f"Does {second.subject.upper()}",
        f"Does {first_letter}\u0301{''.join(others)}",  # with an accent
    )
    planted = replace(first, neighborhood_prompts=shouted, relation_id=second.relation_id)
    found = {r["kind"]: r for r in count_probes([planted, *requests[1:]], [shouted[0]])}
    assert found["neighborhood"]["left_out"] == 2 and found["kept"]["left_out"] == 1
    # runs look for words, of which this subject has none, so that they would count its probe
    wordless = replace(second, subject="!!!", paraphrase_prompts=())
    planted = replace(first, neighborhood_prompts=("Do !!! play",), relation_id=second.relation_id)
    found = {r["kind"]: r for r in count_probes([planted, wordless], ["Do !!!"])}
    assert found["neighborhood"]["edited"] == found["kept"]["edited"] == 1
    shared = count_shared(
        requests, WORLD / "unrelated.jsonl", Calibration(requests=WORLD / "records.json")
    )
    assert shared["facts"] == shared["subjects"] == len(requests)
    row = {"probes": [clean["neighborhood"]], "calibration": shared}
    assert not is_sound(row) and is_sound(row | {"calibration": {"facts": 0}})
    assert not is_sound({"probes": [{"edited": 1}], "calibration": {"facts": 0}})


def test_subjects_in_texts():
    """Whole words, one inside another, several relations."""
    one, *_ = load_requests("facts")
    named = [replace(one, subject=name, relation_id=name[0]) for name in ("York", "New York", "A+")]
    subjects = Subjects([*named, replace(one, subject="York", relation_id="Z")])
    assert subjects.relations_in("In New York City") == {"N", "Y", "Z"}
    assert subjects.relations_in("Yorkshire, AYork") == set()
    assert subjects.relations_in("An A+, then") == {"A"}


def test_no_setting_on_an_edge_without_a_reason():
    """Every search is there with its trials; what lies on an edge says why it may."""
    found = searches()
    assert {"memit_seq", "alphaedit", "target"} <= {*found["method"]}
    for row in found[found["edges"] != ""].itertuples():
        assert all(": " in part for part in row.edges.split("; ") if " end of " in part), row
    assert (found["trials"] >= 1).all() and (found["edits"] >= 100).all()


def test_power():
    """More orders show smaller differences, more comparisons need larger ones."""
    spread = {"edits": Spread(orders=2.0, requests=20.0, rest=30.0)}
    three = power_table(spread, 1000, (2, 3, 5), 1).iloc[0]
    many = power_table(spread, 1000, (2, 3, 5), 20).iloc[0]
    assert three["measure"] == "edits" and three["2"] > three["3"] > three["5"] > 0
    assert many["3"] > three["3"]


def test_calibration_of_facts_is_disjoint_from_them():
    shared = count_shared(
        load_requests("facts"), FACTS / "kept.jsonl", Calibration.of_facts("smollm2-135m")
    )
    assert {name: n for name, n in shared.items() if n} == {"edits": 223}
