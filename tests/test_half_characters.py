r"""Lone surrogates, as the JSON escape \ud800 makes them: refused by name, or left out.

No tokenizer reads half of a character, and no file in UTF-8 can hold it.
"""

import json

import pytest
from workspace import RECORDS, Workspace

from seqedit.evaluation.abilities import read_facts
from seqedit.requests.plain import half_character, is_text
from seqedit.requests.published import load_request_set, load_requests
from seqedit.requests.request import RequestError

HALF = "a \ud800 b"
PLAIN = {
    "case_id": "x",
    "prompt": "{} lives in",
    "subject": "Ada",
    "target_new": "Rome",
    "target_true": "Paris",
    "relation_id": "P1",
}


def test_half_characters():
    """A pair of surrogates in JSON is one character, in Python as well."""
    assert half_character(HALF) == "\ud800" and half_character("\udfff") == "\udfff"
    whole = json.loads(r'"\ud83d\ude00 é"')
    assert half_character(whole) is None and is_text(whole)
    assert not is_text(HALF) and not is_text(" ") and not is_text(3)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".ndjson", ".json.gz"])
@pytest.mark.parametrize("field", PLAIN)
def test_fields_of_a_fact(tmp_path, suffix, field):
    """Refused in one line that names the record and the field; the other record is not."""
    bad = PLAIN | {field: HALF.replace("a", "{} Ada") if field == "prompt" else HALF}
    path = tmp_path / f"requests{suffix}"
    write(path, [PLAIN | {"case_id": 1, "prompt": "{} is from"}, bad])
    with pytest.raises(RequestError) as raised:
        load_requests(path)
    message = str(raised.value)
    assert message.isprintable() and "record 1 (case_id '" in message
    assert f"{field}: holds '\\ud800', which is half of a character" in message
    found = load_request_set(path, clean=True)
    assert len(found.requests) == 1 and "half of a character" in found.summary()


def write(path, rows):
    import gzip

    text = json.dumps(rows) if ".json" == path.suffix else "\n".join(map(json.dumps, rows))
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
def test_cells_of_tables(tmp_path, suffix):
    """Cells can have escapes where they hold a list or an object."""
    separator = "\t" if suffix != ".csv" else ","
    path = tmp_path / f"table{suffix}"

    def rows(target, paraphrases):
        cells = ["1", "{} lives in", "Ada", target, paraphrases]
        names = ["case_id", "prompt", "subject", "target_new", "paraphrase_prompts"]
        cells = ['"' + cell.replace('"', '""') + '"' for cell in cells]
        return "\n".join(map(separator.join, (names, cells)))

    path.write_text(rows('{"str": "\\ud800"}', "Ada is from"))
    with pytest.raises(RequestError, match=r"line 2, record 0 .*: target_new: holds '\\ud800'"):
        load_requests(path)
    for lists in ('["\\ud800", "Ada is from"]', "['\\ud800', 'Ada is from']"):
        path.write_text(rows("Rome", lists))
        (request,) = load_requests(path)
        assert request.paraphrase_prompts == ("Ada is from",)
        assert "paraphrase_prompts[0]: left out" in request.left_out_probes[0]


def test_probes_cost_themselves_and_names_are_escaped(tmp_path, tiny_folder, monkeypatch):
    """The edit is made, and its record says what was left out and what was not read."""
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    space = Workspace(tmp_path, tiny_folder)
    bad = RECORDS[0] | {
        "paraphrase_prompts": [HALF, "Danielle speaks"],
        "locality": [{"prompt": HALF, "answer": "x"}, {"prompt": "He is", "answer": HALF}],
        "odd \ud800": 1,
    }
    path = space.write("bad.json", [bad, *RECORDS[1:]])
    result = space.call(requests=path)
    assert result.exit_code == 0, result.output
    run = json.loads((space.out / "run.json").read_text(encoding="utf-8"))
    assert run["left_out_probes"]["count"] == 3
    assert run["unused_fields"] == {"odd \\ud800": 1}


def test_facts_that_are_kept(tmp_path):
    path = tmp_path / "kept.jsonl"
    path.write_text(json.dumps({"prompt": "Ada is", "target": HALF}))
    with pytest.raises(ValueError, match=r"fact 1: target has to be a text, found 'a \\ud800 b'"):
        read_facts(path)


def test_a_path_that_is_no_utf_8(tmp_path, tiny_folder, monkeypatch):
    """A file's name may hold any bytes; a record in UTF-8 has it all the same."""
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    space = Workspace(tmp_path, tiny_folder)
    path = space.write("requests \udcff.json", [*RECORDS, RECORDS[0] | {"case_id": 9}])
    result = space.call(requests=path, clean=True, out=tmp_path / "out \udcff")
    assert result.exit_code == 0, result.output
    run = json.loads((tmp_path / "out \udcff" / "run.json").read_text(encoding="utf-8"))
    assert run["left_out"]["repeats an earlier record"]["count"] == 1
