"""The text that is edited and scored is the user's, character by character."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import CONTEXTS
from hypothesis import given
from hypothesis import strategies as st
from workspace import Workspace

from seqedit.base.jsonl import read_jsonl
from seqedit.evaluation.continuations import rate
from seqedit.evaluation.edits import score_edits
from seqedit.lm.chat import as_read
from seqedit.lm.load import load_model
from seqedit.lm.target_loss import TargetConfig, learned_rows, target_rows
from seqedit.requests.joining import join
from seqedit.requests.plain import RequestError
from seqedit.requests.request import EditRequest, joined, parse_requests

CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}> {{ m['content'] | trim }}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


def request_of(prompt: str, subject: str = "André", target: str = "polo", **more) -> EditRequest:
    record = {"case_id": 0, "prompt": prompt, "subject": subject, "target_new": target}
    return parse_requests([record | more])[0]


@pytest.mark.parametrize(
    ("prompt", "target", "text"),
    [
        ("André plays", "polo", "André plays polo"),
        ("André plays ", "polo", "André plays polo"),
        ("André plays", " polo", "André plays polo"),
        ("André plays  ", "polo", "André plays  polo"),
        ("Sport of André?\nAnswer:\n", "polo", "Sport of André?\nAnswer:\npolo"),
        ("Sport of André?\nAnswer:", "\npolo", "Sport of André?\nAnswer:\npolo"),
        ("Sport of André:\n", " polo", "Sport of André:\n polo"),
        ("  André plays\t", "polo", "  André plays\tpolo"),
        ("André plays\u3000", "polo", "André plays\u3000polo"),
    ],
)
def test_the_text_is_as_given(prompt, target, text):
    """White space at the seam is the user's; where there is none a space is put."""
    request = request_of(prompt, target=target)
    assert request.continued(request.text, request.target_new) == text
    assert request.target_new == "polo" and not request.remarks


spaces = st.text(" \n\t\u3000", max_size=2)
words = st.text(st.sampled_from("aé东"), min_size=1, max_size=3)


@given(words, spaces, spaces, words)
def test_white_space_at_the_seam_is_kept(word, before, after, target):
    request = request_of(f"André {word}{before}", target=f"{after}{target}")
    seam = before + after or " "
    assert request.continued(request.text, request.target_new) == f"André {word}{seam}{target}"


def test_no_space_where_it_is_said():
    """By the record, else by the run; a prompt's own white space comes first."""
    request = request_of("中国的首都是", "中国", "纽约")
    assert request.separator is None and request.joined_by == " "
    (run,) = joined([request], "")
    assert run.continued(run.text, "纽约") == "中国的首都是纽约"
    own = request_of("中国的首都是", "中国", "纽约", separator="")
    assert joined([own], " ") == [own] and own.joined_by == ""
    (kept,) = joined([request_of("André plays", target=" polo")], "")
    assert kept.continued(kept.text, kept.target_new) == "André plays polo"
    with pytest.raises(RequestError, match="separator: expected white space .* found '-'"):
        request_of("André plays", separator="-")


def test_trailing_white_space_of_a_target_is_said():
    request = request_of("{} plays", target="polo \n")
    assert request.target_new == "polo"
    assert [remark.what for remark in request.remarks] == [
        "targets end in white space, which is not edited"
    ]


@pytest.mark.parametrize(
    ("prompt", "subject", "before"),
    [
        ("The job of Mal Cam, a friend of Mal Camson, is", "Mal Cam", "The job of "),
        ("Romeo of Rome was Romeo", "Rome", "Romeo of "),
        ("Ada's friend Ada lives in", "Ada", "Ada's friend "),  # equally good: the last
        ("Jean met Jean-Luc in", "Jean", ""),
        ("Jean-Luc lives in", "Jean", ""),
        ("snake_case and case are", "case", "snake_case and "),
        ("e, not e\u0301, is", "e", ""),
        ("中国的首都中国是", "中国", "中国的首都"),  # no word ends there: the last
        ("Is C++ or C older? C", "C++", "Is "),
        ("{} is the twin of Ana", "Ana", ""),
        ("Romeo is in {}", "Rome", "Romeo is in "),
        ('print("{}".format(x)) of Bob', "Bob", 'print("{}".format(x)) of '),
        ("`{}` is what Bob writes", "Bob", "`{}` is what "),
        ("a {} b {} c Bob", "Bob", "a {} b {} c "),
        ('The word "{}" means', "Bob", 'The word "'),
    ],
)
def test_the_place_of_the_subject(prompt, subject, before):
    """As words of its own where it has such an occurrence; "{}" in code is text."""
    request = request_of(prompt, subject)
    assert request.before_subject == before
    replaced = "{}" if prompt.startswith("{}", len(before)) else subject
    assert request.text == before + subject + prompt[len(before + replaced) :]


def test_the_place_may_be_given():
    """It decides between several, and is refused where neither the subject nor "{}" stands."""
    request = request_of("Ada's friend Ada lives in", "Ada", subject_at=0)
    assert request.before_subject == "" and request.text == "Ada's friend Ada lives in"
    second = request_of("{} and {}", "Ada", subject_at=7)
    assert second.text == "{} and Ada"
    with pytest.raises(RequestError, match="subject_at: at character 3 of"):
        request_of("Ada's friend Ada lives in", "Ada", subject_at=3)
    with pytest.raises(RequestError, match="subject_at: expected a number, found True"):
        request_of("Ada's friend Ada lives in", "Ada", subject_at=True)


def test_literal_braces_in_contexts(tiny_lm):
    """The whole text, and the subject's token, are the same in keys and targets."""
    lm = tiny_lm("gpt2")
    request = request_of('x = "{}"; André plays')
    templates = [template for group in CONTEXTS for template in group]
    (rows,) = target_rows(lm, [request], templates, TargetConfig())
    for row, template in zip(rows, templates, strict=False):
        text = template.replace("{}", f"{request.text} polo")
        assert [*row.ids, row.target[-1]] == lm.tokenizer(text)["input_ids"]
        ends = len(lm.tokenizer(text[: text.index("André plays") + len("André")])["input_ids"])
        assert row.position == ends - 1


@pytest.mark.parametrize("prompt", ["{} plays:\n", "{} plays ", "{} plays"])
def test_targets_fine_tuning_and_scores_read_one_text(tiny_lm, prompt):
    """The same tokens everywhere, and the probability is that of the text as given."""
    lm = tiny_lm("gpt2")
    request = request_of(prompt, paraphrase_prompts=["Monsieur " + prompt.format("André")])
    text = join(request.text, "polo")
    (learned,) = learned_rows(lm, [request], TargetConfig())
    (rows,) = target_rows(lm, [request], ["{}"], TargetConfig())
    assert rows[0].ids == learned.ids and list(rows[0].target) == learned.continuation
    assert [*learned.ids, learned.continuation[-1]] == lm.tokenizer(text)["input_ids"]
    scores = score_edits(lm, [request])
    nll = rate(lm, [request.text], ["polo"]).nll[0]
    assert scores["probability"][0] == pytest.approx(np.exp(-nll))


@pytest.fixture
def space(tmp_path, tiny_folder, monkeypatch) -> Workspace:
    """With a model folder of its own, which a test may change."""
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    return Workspace(tmp_path, Path(shutil.copytree(tiny_folder, tmp_path / "model")))


@pytest.fixture
def unspaced(space):
    """A run with `--set separator=""`, and its requests."""
    records = [{"case_id": 0, "prompt": "{}的首都是", "subject": "Zoë", "target_new": "polo"}]
    records[0] |= {"target_true": "again", "locality": [{"prompt": "André", "answer": "Zoë"}]}
    path = space.write("chinese.json", records)
    result = space.call(requests=path, set=['separator=""'])
    assert result.exit_code == 0, result.output
    return space, path


def test_no_space_reaches_every_measure(unspaced):
    """Recorded and scored again, the probability is that of the text without a space."""
    space, path = unspaced
    run = json.loads((space.out / "run.json").read_text())
    assert run["parameters"]["separator"] == run["parameters"]["target"]["separator"] == ""
    recorded = read_jsonl(space.out / "scores.jsonl")[-1]["edits"]
    lm = load_model(str(space.model), device="cpu")
    (request,) = joined(parse_requests(json.loads(path.read_text())), "")
    unedited = run["unedited"]["probability"]
    assert unedited == pytest.approx(score_edits(lm, [request])["probability"][0])
    spaced = score_edits(lm, [request_of("{}的首都是", "Zoë")])["probability"][0]
    assert abs(unedited / spaced - 1) > 1e-3
    out = space.folder / "score.json"
    result = space.call("score", edited=space.out, requests=path, out=out)
    assert result.exit_code == 0, result.output
    again = json.loads(out.read_text())["edits"]
    assert again["probability"] == pytest.approx(recorded["probability"])
    assert again["locality_gold"] == recorded["locality_gold"]


def test_released_nse_seeks_without_the_space_and_measures_with_it(tiny_lm):
    lm = tiny_lm("gpt2")
    request = request_of("{} plays")
    (rows,) = target_rows(lm, [request], ["{}"], TargetConfig(target_separator=""))
    assert [*rows[0].ids, rows[0].target[-1]] == lm.tokenizer("André playspolo")["input_ids"]
    (learned,) = learned_rows(lm, [request], TargetConfig(target_separator=""))
    assert [*learned.ids, learned.continuation[-1]] == lm.tokenizer("André plays polo")["input_ids"]


def test_chats(tiny_lm):
    """Every prompt is in the template once; the target follows the model's turn directly."""
    lm = tiny_lm("gpt2")
    request = request_of(
        "Sport of {}? ",
        paraphrase_prompts=["André?"],
        locality=[{"prompt": "Zoë?", "answer": "golf"}],
    )
    with pytest.raises(ValueError, match="chat: the tokenizer has no chat template"):
        as_read(lm, [request], chat=True)
    lm.tokenizer.chat_template = CHAT
    (chat,) = as_read(lm, [request], chat=True)
    assert chat.text.endswith("<user> Sport of André?\n<assistant>\n")
    assert chat.before_subject.endswith("<user> Sport of ") and chat.questions == (request.text,)
    assert chat.continued(chat.text, "polo").endswith("<assistant>\npolo")
    assert chat.paraphrase_prompts[0].endswith("<user> André?\n<assistant>\n")
    assert chat.locality[0].prompt.endswith("<user> Zoë?\n<assistant>\n")
    lm.tokenizer.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(RequestError, match="case_id 0: prompt: the chat template alters"):
        as_read(lm, [request], chat=True)


def test_a_run_of_chats(space):
    """The run says so, its score is taken on chats, and without a template it is refused."""
    result = space.call(chat=True)
    assert result.exit_code == 1 and "no chat template" in result.output
    (space.model / "chat_template.jinja").write_text(CHAT)
    result = space.call(chat=True, n_edits=2)
    assert result.exit_code == 0, result.output
    assert json.loads((space.out / "run.json").read_text())["parameters"]["chat"] is True
    out = space.folder / "score.json"
    records = json.loads((space.folder / "requests.json").read_text())[:2]
    result = space.call(
        "score", edited=space.out, requests=space.write("two.json", records), out=out
    )
    assert result.exit_code == 0, result.output
    recorded = read_jsonl(space.out / "scores.jsonl")[-1]["edits"]
    again = json.loads(out.read_text())["edits"]
    assert again["probability"] == pytest.approx(recorded["probability"])


def test_a_run_records_what_joins_its_requests(space):
    """Where they say it themselves; the run's own rule is among its settings."""
    records = [
        {
            "case_id": 0,
            "prompt": "{}的首都是",
            "subject": "Zoë",
            "target_new": "polo",
            "separator": "",
        },
        {"case_id": 1, "prompt": "{} plays", "subject": "André", "target_new": "polo"},
        {"case_id": 2, "prompt": "{} plays:", "subject": "Zoë", "target_new": "\npolo"},
    ]
    result = space.call(requests=space.write("own.json", records))
    assert result.exit_code == 0, result.output
    run = json.loads((space.out / "run.json").read_text())
    assert run["separators"] == {"": 1, " ": 1, "\n": 1}
    assert run["parameters"]["target"]["separator"] == " "
    assert "separator" not in run["parameters"]
