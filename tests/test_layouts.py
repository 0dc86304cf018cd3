"""Benchmarks with questions that an edit entails: what each field becomes."""

import pytest

from seqedit.evaluation.edits import score_edits
from seqedit.requests.layouts import LAYOUTS, in_our_schema
from seqedit.requests.plain import RequestError
from seqedit.requests.record import Probe
from seqedit.requests.request import parse_requests


def requests_of(*records):
    return parse_requests(
        [own for i, record in enumerate(records) for own in in_our_schema(record, i)]
    )


def rewrite(prompt, subject, new, true):
    return {
        "prompt": prompt,
        "subject": subject,
        "relation_id": "P1",
        "target_new": {"str": new},
        "target_true": {"str": true},
        "question": f"What of {subject}?",
    }


def test_mquake():
    """Every rewrite is an edit; the questions of several hops belong to the last one."""
    record = {
        "case_id": 7,
        "requested_rewrite": [
            rewrite("{} plays", "Ana", "golf", "judo"),
            rewrite("{} was invented in", "golf", "Peru", "Scotland"),
        ],
        "questions": ["Where does Ana's sport come from?", "The origin of what Ana plays is"],
        "answer": "Japan",
        "new_answer": "Peru",
        "new_answer_alias": ["Republic of Peru"],
        "new_single_hops": [
            {"question": "What does Ana play?", "answer": "golf", "answer_alias": ["the golf"]},
            "junk",
        ],
    }
    first, second = requests_of(record)
    assert (first.case_id, second.case_id) == ("7.1", "7.2")
    assert first.portability == () and first.questions == ("What of Ana?",)
    aliases = ("Republic of Peru",)
    assert second.portability == (
        Probe(record["questions"][0], "Peru", "multi_hop", "Japan", None, aliases),
        Probe(record["questions"][1], "Peru", "multi_hop", "Japan", None, aliases),
        Probe("What does Ana play?", "golf", "single_hop", None, None, ("the golf",)),
    )
    (single,) = requests_of(record | {"requested_rewrite": record["requested_rewrite"][:1]})
    assert single.case_id == 7 and len(single.portability) == 3


RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the country of citizenship of Ana Bel is New Peru.",
        "subject_id": "Q1",
        "relation": "COUNTRY_OF_CITIZENSHIP",
        "original_fact": {
            "prompt": "The name of the country of citizenship of Ana Bel is New Mexico.",
        },
    },
    "Relation_Specificity": [
        {
            "test_queries": [
                {
                    "prompt": "The name of the mother of Ana Bel is",
                    "answers": [{"value": "Cy Bel", "aliases": ["Cy"]}],
                }
            ],
            "test_condition": "OR",
            "condition_queries": [],
        }
    ],
    "Compositionality_I": [
        {
            "test_queries": [
                {
                    "prompt": "The capital of the country of Ana Bel is",
                    "answers": [{"value": "Lima", "aliases": []}, {"value": "Cusco"}],
                }
            ]
        }
    ],
    "Subject_Aliasing": [],
}


def test_ripple_edits():
    """The subject stands after the relation's words, the object after the verb."""
    (request,) = requests_of(RIPPLE)
    assert (request.prompt, request.subject) == (
        "The name of the country of citizenship of {} is",
        "Ana Bel",
    )
    assert (request.target_new, request.target_true) == ("New Peru", "New Mexico")
    assert request.locality == (
        Probe(
            "The name of the mother of Ana Bel is",
            "Cy Bel",
            "relation_specificity",
            aliases=("Cy",),
        ),
    )
    (probe,) = request.portability
    assert (probe.kind, probe.answer, probe.aliases) == ("compositionality_i", "Lima", ("Cusco",))
    named = RIPPLE["edit"] | {"prompt": "Ana Bel rules in Peru.", "subject": "Ana Bel"}
    named["original_fact"] = {"prompt": "Ana Bel rules in Mexico."}
    (request,) = requests_of(RIPPLE | {"edit": named})
    assert (request.prompt, request.target_new) == ("{} rules in", "Peru")


@pytest.mark.parametrize(
    ("sentence", "questions", "subject"),
    [
        (
            "The name of the award Ana Bel received is Oscar.",
            ["The mother of Ana Bel is"],
            "Ana Bel",
        ),
        ("Ana Bel works in Peru.", ["The mother of Ana Bel is", "Ana Bel was born in"], "Ana Bel"),
        ("The capital city of New Peru is Lima.", ["The anthem of New Peru is"], "New Peru"),
        ("The capital city of New Peru is Lima.", ["The anthem of New Mexico is"], None),
        ("The capital city of New Peru is Lima.", [], None),
    ],
)
def test_ripple_edits_name_in_questions(sentence, questions, subject):
    """The name that the sentence shares with all questions about the same identifier."""
    words = sentence.split()
    original = {"prompt": " ".join([*words[:-1], "Rome."])}
    edit = {"prompt": sentence, "subject_id": "Q1", "relation": "X", "original_fact": original}
    queries = [{"prompt": q, "answers": [], "subject_id": "Q1"} for q in questions]
    record = {"edit": edit, "Relation_Specificity": [{"test_queries": queries}]}
    if subject is None:
        with pytest.raises(RequestError, match='add it as "subject"'):
            in_our_schema(record, 0)
    else:
        (found,) = in_our_schema(record, 0)
        assert (found["subject"], found["prompt"]) == (subject, " ".join(words[:-1]))


def test_ripple_edits_without_a_name_are_refused():
    edit = RIPPLE["edit"] | {"relation": "RULER"}
    with pytest.raises(RequestError, match='record 0: edit.subject: .* add it as "subject"'):
        requests_of(RIPPLE | {"edit": edit})


def test_wikibigedit():
    record = {
        "subject": "Ana Bel",
        "relation": "sport",
        "update": "Which sport does Ana Bel play?",
        "ans": "golf",
        "rephrase": "What is the sport of Ana Bel?",
        "personas": "Arr, what be the sport of Ana Bel?",
        "loc": "Which sport does Cy play?",
        "loc_ans": "judo",
        "mhop": "Where was the sport of Ana Bel invented?",
        "mhop_ans": "Scotland",
    }
    (request,) = requests_of(record)
    assert request.questions == (record["update"],) and request.target_new == "golf"
    assert request.paraphrase_prompts == (record["rephrase"],)
    assert request.locality == (Probe(record["loc"], "judo"),)
    assert request.portability == (
        Probe(record["mhop"], "Scotland", "multi_hop"),
        Probe(record["personas"], "golf", "persona"),
    )
    (request,) = requests_of(record | {"mhop": None, "mhop_ans": None, "personas": None})
    assert request.portability == () and request.left_out_probes == ()


def test_zsre_portability():
    record = {
        "src": "What does Ana play?",
        "subject": "Ana",
        "alt": "golf",
        "portability": {
            "Recalled Relation": "(golf, origin, Scotland)",
            "New Question": "Where was invented what Ana plays?",
            "New Answer": "Scotland",
        },
    }
    (request,) = requests_of(record)
    assert request.portability == (
        Probe("Where was invented what Ana plays?", "Scotland", "two_hop"),
    )


def test_easyedit():
    """Lists of prompts and answers side by side; its flat locality fields."""
    record = {"prompt": "Ana plays", "subject": "Ana", "target_new": "golf", "ground_truth": "judo"}
    lists = {
        "neighborhood": {"prompt": ["Cy plays", "Di plays"], "ground_truth": ["polo", "chess"]}
    }
    (request,) = requests_of(record | {"locality": lists})
    assert request.locality == (
        Probe("Cy plays", "polo", "neighborhood"),
        Probe("Di plays", "chess", "neighborhood"),
    )
    flat = {"locality_prompt": "Cy plays", "locality_ground_truth": "polo"}
    (request,) = requests_of(record | flat)
    assert request.locality == (Probe("Cy plays", "polo"),)


def test_an_alias_counts_as_the_answer(tiny_lm, requests):
    """If the model says it; otherwise the most probable name is rated."""
    from dataclasses import replace

    lm = tiny_lm("gpt2")
    prompt = "The old town is"

    def score(answer, *aliases):
        probe = Probe(prompt, answer, "alias", aliases=aliases)
        return score_edits(lm, [replace(requests[0], portability=(probe,))]).iloc[0]

    (top,) = score_edits(lm, [replace(requests[0], neighborhood_prompts=(prompt,))], edited=[])[
        "neighborhood_top"
    ][0]
    said = lm.tokenizer.decode([top]).strip()
    assert score("quiet song", "song")["portability_accuracy"] == 0.0
    if said:
        assert (
            score("quiet song", "song", said)["portability_accuracy"]
            == score(said)["portability_accuracy"]
        )


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_has_a_test_of_its_own(name):
    """The first layout that fits is taken, so that no layout hides another."""
    fields = {
        field.rstrip("{}[]"): {"{}": {}, "[]": []}.get(field[-2:], "x")
        for field in LAYOUTS[name].fields
    }
    fits = [
        other
        for other, layout in LAYOUTS.items()
        if all(field.rstrip("{}[]") in fields for field in layout.fields)
    ]
    assert fits[0] == name
