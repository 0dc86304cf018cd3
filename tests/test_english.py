"""Tests of general abilities in plain English: their files, and that no cue gives answers away."""

import ast
import json
import re
from collections import Counter, defaultdict

import make_abilities
import numpy as np
import pytest
import yaml
from facts.graph import Graph
from facts.relations import BY_NAME
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline

from seqedit.base.jsonl import read_jsonl
from seqedit.base.paths import DATA, FACTS
from seqedit.evaluation.probes import EditedFacts
from seqedit.exchange.harness import ENGLISH, PAPERS, WORLD_TASKS, choose_tasks
from seqedit.requests.published import load_requests

FOLDER = DATA / "abilities"
HARNESS = DATA / "harness" / "english"
TASKS = tuple(make_abilities.TASKS)
CHOICES = dict(zip(TASKS, (2, 2, 2, 6, 4, 4), strict=True))
every_task = pytest.mark.parametrize("task", TASKS)


def rows(task):
    return read_jsonl(FOLDER / f"{task}.jsonl")


def words(text):
    return re.findall(r"[^\W\d_]+|\d+|[+-]", text.lower())


def right(row):
    return row["choices"][row["answer"]]


def wrong(row):
    return [choice for choice in row["choices"] if choice != right(row)]


def test_files_are_what_the_tool_makes():
    assert make_abilities.contents() == {
        f"{task}.jsonl": (FOLDER / f"{task}.jsonl").read_text(encoding="utf-8") for task in TASKS
    }
    assert make_abilities.contents(seed=1) != make_abilities.contents()


@every_task
def test_items_are_complete_different_and_balanced(task):
    """A task has 150 items or more; each place of the choices is right equally often."""
    items = rows(task)
    assert len(items) >= 150
    assert len({json.dumps([row["prompt"], sorted(row["choices"])]) for row in items}) == len(items)
    for row in items:
        assert row.keys() == {"kind", "prompt", "choices", "answer"}
        assert len(set(row["choices"])) == len(row["choices"]) == CHOICES[task]
        for text in (row["prompt"], *row["choices"]):
            assert text == text.strip() and "  " not in text and "{" not in text
    places = Counter(row["answer"] for row in items)
    assert set(places) == set(range(CHOICES[task])) and len(set(places.values())) == 1


@pytest.mark.parametrize("task", ["sentiment", "entailment", "last_word", "questions"])
def test_the_choices_alone_tell_nothing(task):
    """Every choice of a set of choices is right equally often."""
    found = defaultdict(Counter)
    for row in rows(task):
        found[row["kind"], *sorted(row["choices"])][right(row)] += 1
    for (_, *choices), answers in found.items():
        assert len({answers[choice] for choice in choices}) == 1, choices


def test_words_do_not_show_what_is_acceptable():
    """In each phenomenon acceptable sentences and the others have the same words, as often."""
    kinds = {row["kind"] for row in rows("acceptability")}
    assert len(kinds) >= 8
    for kind in kinds:
        own = [row for row in rows("acceptability") if row["kind"] == kind]
        good, bad = [words(right(row)) for row in own], [words(wrong(row)[0]) for row in own]
        assert Counter(sum(good, [])) == Counter(sum(bad, [])) and len(own) == 20
        assert [len(text) for text in good] == [len(text) for text in bad]


def test_word_problems_come_in_twos_with_the_same_choices():
    """One of each operation, and equations of both, one true and one false.

    Who reads but cannot calculate, or calculates but does not read, is right half of the time.
    """
    found = defaultdict(Counter)
    for row in rows("arithmetic"):
        true, signs = [], Counter()
        for choice in row["choices"]:
            a, sign, b, _, total = choice.split()
            assert all(re.search(rf"\b{number}\b", row["prompt"]) for number in (a, b))
            signs[sign] += 1
            if int(total) == (int(a) + int(b) if sign == "+" else int(a) - int(b)):
                true.append(choice)
        assert signs == {"+": 2, "-": 2} and len(true) == 2 and right(row) in true
        found[row["prompt"].split(". ")[0], *sorted(row["choices"])][right(row)] += 1
    for answers in found.values():
        assert len(answers) == 2 and len(set(answers.values())) == 1


def test_the_last_word_is_not_in_the_passage_and_every_ending_takes_every_word():
    ends = defaultdict(Counter)
    for row in rows("last_word"):
        assert not {*words(row["prompt"])} & {*row["choices"]}, row["prompt"]
        ends[row["prompt"].rpartition(". ")[2]][right(row)] += 1
    assert len(ends) == 32
    assert all(len(of) == 6 and set(of.values()) == {1} for of in ends.values())


def test_words_of_reviews_hardly_give_the_verdict():
    """A classifier on words, tried on a subject that it has not seen, is near a half."""
    items = rows("sentiment")
    texts, verdicts = [row["prompt"] for row in items], [right(row) for row in items]
    model = make_pipeline(CountVectorizer(binary=True), LogisticRegression(max_iter=1000))
    kinds = [row["kind"] for row in items]
    known = cross_val_score(model, texts, verdicts, groups=kinds, cv=LeaveOneGroupOut()).mean()
    assert known < 0.62  # 0.57; one standard error of 208 items is 0.035
    lengths = {
        v: np.mean([len(t) for t, w in zip(texts, verdicts, strict=True) if w == v])
        for v in verdicts
    }
    assert max(lengths.values()) / min(lengths.values()) < 1.02


def test_overlap_of_words_does_not_show_what_follows():
    """Choosing the conclusion that has more words of the premise is right half of the time."""
    found = []
    for row in rows("entailment"):
        premise = {*words(row["prompt"])}
        shares = [np.mean([w in premise for w in words(c)]) for c in (right(row), *wrong(row))]
        found.append((1 + np.sign(shares[0] - shares[1])) / 2)
    assert abs(np.mean(found) - 0.5) < 0.05


def test_questions_are_about_facts_that_are_never_edited():
    """Each asks for a kept fact, and its wrong answers are wrong; no edited subject is in it."""
    graph, requests = Graph(), load_requests("facts")
    facts = {BY_NAME[f.relation].question.format(f.subject): f for f in graph.of_split("kept")}
    edited = EditedFacts(requests)
    targets = {row["target"] for row in read_jsonl(FACTS / "kept.jsonl")}
    subjects = re.compile("|".join(rf"\b{re.escape(request.subject)}\b" for request in requests))
    for row in rows("questions"):
        question = row["prompt"].removeprefix("Question: ").removesuffix("\nAnswer:")
        fact = facts[question]
        assert right(row) == fact.object and right(row) in targets
        assert not graph.true_names(fact) & {*wrong(row)}
        assert not edited.asked_by(question, fact.relation)
        assert not subjects.search(question), question


def test_a_wheel_carries_the_files():
    tree = ast.parse((DATA.parent / "setup.py").read_text(encoding="utf-8"))
    (patterns,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "CARRIED"
    ]
    carried = {path for pattern in patterns for path in DATA.glob(pattern)}
    files = {*FOLDER.iterdir(), *HARNESS.glob("*.*"), HARNESS / "_english"}
    assert files <= carried and FOLDER / "README.md" in files
    assert sum(path.stat().st_size for path in files) < 4e5


@every_task
def test_every_task_has_its_file_of_the_harness(task):
    text = (HARNESS / f"{task}.yaml").read_text(encoding="utf-8")
    read = yaml.safe_load(text.replace("!function ", ""))
    assert read["include"] == "_english" and read["tag"] == ENGLISH
    assert read["task"] == f"english_{task}" and read["custom_dataset"] == f"english.{task}"
    assert {path.stem for path in HARNESS.glob("*.yaml")} == {*TASKS}
    shared = yaml.safe_load((HARNESS / "_english").read_text(encoding="utf-8"))
    assert shared["output_type"] == "multiple_choice" and shared["doc_to_target"] == "answer"


def test_which_tasks_are_the_default():
    """The world's for its own model, plain English for others; "papers" stands for many."""
    assert choose_tasks(None, embedded=True) == [*WORLD_TASKS]
    assert choose_tasks(None, embedded=False) == [ENGLISH]
    assert choose_tasks("papers, english_sentiment", embedded=True) == [
        *PAPERS,
        "english_sentiment",
    ]
