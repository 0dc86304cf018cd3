"""Files as pandas, spreadsheets, `datasets` and people write them become the same requests."""

import bz2
import gzip
import json
import lzma
import zipfile

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqedit.requests.fields import normalised
from seqedit.requests.layouts import KNOWN
from seqedit.requests.published import load_request_set, load_requests
from seqedit.requests.request import RequestError

ROWS = [
    {
        "case_id": 3,
        "prompt": "{}, today, plays",
        "subject": "Zoë O'Brien",
        "target_new": "polo",
        "target_true": "the cello",
        "paraphrase_prompts": ["Zoë; she likes", 'Zoë, "the" one, is'],
    },
    {
        "case_id": 7,
        "prompt": "The café of {}",
        "subject": "André",
        "target_new": "NA",
        "target_true": "007",
        "paraphrase_prompts": [],
    },
]
FRAME = pd.DataFrame(ROWS)
TEXTS = ["prompt", "subject", "target_new"]


@pytest.fixture
def expected(tmp_path):
    """The requests of a plain JSON file."""
    path = tmp_path / "plain.json"
    path.write_text(json.dumps(ROWS))
    return load_requests(path)


JSON = {
    "records": lambda path: FRAME.to_json(path, orient="records"),
    "lines": lambda path: FRAME.to_json(path, orient="records", lines=True),
    "columns": lambda path: FRAME.to_json(path),
    "index": lambda path: FRAME.to_json(path, orient="index"),
    "split": lambda path: FRAME.to_json(path, orient="split"),
    "table": lambda path: FRAME.to_json(path, orient="table"),
    "lists": lambda path: path.write_text(json.dumps(FRAME.to_dict("list"))),
    "data": lambda path: path.write_text(json.dumps({"version": "1.1", "data": ROWS})),
    "byte-order mark": lambda path: path.write_text(json.dumps(ROWS), encoding="utf-8-sig"),
    "indented, one after the other": lambda path: path.write_text(
        "\n\n".join(json.dumps(row, indent=1) for row in ROWS)
    ),
}


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".JSON", ".ndjson"])
@pytest.mark.parametrize("name", JSON)
def test_json(tmp_path, expected, name, suffix):
    """Whatever the shape, and whether or not the ending says that it is JSON lines."""
    path = tmp_path / f"requests{suffix}"
    JSON[name](path)
    assert load_requests(path) == expected


CSV = {
    "commas": {},
    "without index": {"index": False},
    "semicolons": {"sep": ";", "index": False},
    "tabs": {"sep": "\t", "index": False},
    "bars": {"sep": "|", "index": False},
    "byte-order mark": {"encoding": "utf-8-sig"},
    "all quoted": {"quoting": 1},
    "Windows line ends": {"lineterminator": "\r\n"},
    "old Mac line ends": {"lineterminator": "\r"},
}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".CSV"])
@pytest.mark.parametrize("name", CSV)
def test_tables(tmp_path, expected, name, suffix):
    """Lists are in their cells as Python writes them."""
    path = tmp_path / f"requests{suffix}"
    FRAME.to_csv(path, **CSV[name])
    assert load_requests(path) == expected


def test_tables_of_spreadsheets(tmp_path, expected):
    """A line that says the separator, empty rows and columns, capitals and spaces in the header."""
    path = tmp_path / "a.csv"
    head = "Case ID;Prompt ;Subject;Target New;targetTrue;Paraphrase-Prompts;\r\n"
    cells = [
        "{};{};{};{};{};{};\r\n".format(
            row["case_id"],
            *(row[name] for name in ("prompt", "subject", "target_new", "target_true")),
            '"' + json.dumps(row["paraphrase_prompts"]).replace('"', '""') + '"',
        )
        for row in ROWS
    ]
    path.write_text("sep=;\r\n" + head + cells[0] + ";;;;;;\r\n" + cells[1] + ";;;\r\n;;;;;;\r\n")
    assert load_requests(path) == expected
    path.write_text('prompt, subject, target_new\n"{}, she, plays", Zoë, polo\n')
    (request,) = load_requests(path)
    assert (request.prompt, request.subject) == ("{}, she, plays", "Zoë")


PACK = {
    ".gz": lambda content: gzip.compress(content),
    ".bz2": lambda content: bz2.compress(content),
    ".xz": lambda content: lzma.compress(content),
}


@pytest.mark.parametrize("suffix", [*PACK, ".zip"])
@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet"])
def test_packed_files(tmp_path, expected, kind, suffix):
    path = tmp_path / f"requests{kind}"
    {".csv": FRAME.to_csv, ".parquet": FRAME.to_parquet, ".jsonl": JSON["lines"]}[kind](path)
    packed = tmp_path / f"requests{kind}{suffix.upper()}"
    if suffix == ".zip":
        with zipfile.ZipFile(packed, "w") as archive:
            archive.write(path, path.name)
    else:
        packed.write_bytes(PACK[suffix](path.read_bytes()))
    assert load_requests(packed) == expected
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(RequestError, match=f"{packed.name}: cannot be read"):
        load_requests(packed)


def test_two_files_in_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        archive.writestr("a.csv", "x")
        archive.writestr("b.csv", "x")
    with pytest.raises(RequestError, match="it packs 2 files"):
        load_requests(tmp_path / "a.csv.zip")


def test_feather_and_parquet_with_an_index(tmp_path, expected):
    FRAME.to_feather(tmp_path / "a.feather")
    FRAME.set_index(pd.Index(["a", "b"])).to_parquet(tmp_path / "a.parquet")
    for name in ("a.feather", "a.parquet"):
        found = load_request_set(tmp_path / name)
        assert found.requests == expected and not found.unused


def test_what_datasets_writes(tmp_path, expected):
    """Files, and a folder; a folder of several splits is refused by their names."""
    from datasets import Dataset, DatasetDict, disable_progress_bars

    disable_progress_bars()
    data = Dataset.from_list(ROWS)
    data.to_json(tmp_path / "a.json")
    data.to_csv(tmp_path / "a.csv")
    data.to_parquet(tmp_path / "a.parquet")
    data.save_to_disk(tmp_path / "saved", num_shards=2)
    for name in ("a.json", "a.parquet", "saved"):
        assert load_requests(tmp_path / name) == expected, name
    DatasetDict(train=data, test=data).save_to_disk(tmp_path / "splits")
    with pytest.raises(RequestError, match="splits: has the splits test, train"):
        load_requests(tmp_path / "splits")
    assert load_requests(tmp_path / "splits" / "train") == expected
    (tmp_path / "other").mkdir()
    with pytest.raises(RequestError, match="other: is a folder, but not one that `datasets`"):
        load_requests(tmp_path / "other")


def test_identifiers(tmp_path):
    """Whole numbers as numbers, other text as it is, missing ones numbered by place."""
    rows = [{"prompt": f"{{}} {i}", "subject": "Ada", "target_new": "x"} for i in range(6)]
    given = [2.0, "b7", None, float("nan"), "007", 1]
    for row, identifier in zip(rows, given, strict=True):
        row["case_id"] = identifier
    del rows[2]["case_id"]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    assert [r.case_id for r in load_requests(path)] == [2, "b7", "2*", 3, "007", 1]
    path = tmp_path / "a.csv"
    pd.DataFrame(rows[:1] + rows[3:4] + rows[5:]).to_csv(path, index=False)  # 2.0, nothing, 1.0
    assert [r.case_id for r in load_requests(path)] == [2, "1*", 1]
    path.write_text("case_id,prompt,subject,target_new\n007,{} is,Ada,x\n7,{} was,Ada,x\n")
    assert [r.case_id for r in load_requests(path)] == ["007", 7]


def test_line_ends_inside_strings(tmp_path):
    """As they are in JSON, or written raw by careless programs; U+2028 ends no line."""
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"prompt": "{} is\\nplays\\u2028at", "subject": "Ada", "target_new": "x"}\n'
        '{"prompt": "{} is\nA: \u2028", "subject": "Ada", "target_new": "x"}\n',
        encoding="utf-8",
    )
    assert [r.prompt for r in load_requests(path)] == ["{} is\nplays\u2028at", "{} is\nA: \u2028"]


GOOD = '{"prompt": "{} is", "subject": "Ada", "target_new": "x"}\n'
HEAD = "prompt,subject,target_new,locality\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", GOOD + GOOD.replace('"x"', "polo"), "line 2, column 53: .* found 'polo}'"),
        ("a.jsonl", GOOD + '{"prompt": "{} is\n' + GOOD, "not valid JSON: line 2"),
        ("a.json", '[{"prompt": "a", "prompt": "b"}]', "field 'prompt' occurs 2 times"),
        ("a.json", '{"train": [{"a": 1}], "test": [{"a": 1}]}', r"several lists .*train, test"),
        ("a.json", '{"prompt": ["a", "b"], "subject": ["c"]}', "columns differ in length"),
        ("a.json", "[" * 100_000, "nested too deeply|not valid JSON"),
        ("a.csv", HEAD + '{} is,Ada,"x" y,\n', "line 2: .* put quotes around"),
        ("a.csv", HEAD + '{} is,Ada,"x,\n', "line 2: unexpected end of data"),
        ("a.csv", HEAD + "{} is,Ada,x,,y\n", "line 2: row 0 has more cells .* 'y' among"),
        ("a.csv", HEAD + "\n\n" + "{} is,Ada,x,[1\n", "line 4, column locality: not valid JSON"),
        ("a.csv", HEAD + "{} is,Ada,x,\"['a' 'b']\"\n", "column locality: .* as numpy prints"),
        ("a.csv", HEAD + "\n{} is,Ada\n", "a.csv, line 3, record 0 .*: target_new: is missing"),
        ("a.csv", "prompt,subject,subject\n{} is,Ada,x\n", "column 'subject' occurs 2 times"),
        ("a.csv", "prompt,Prompt,subject\n{} is,Ada,x\n", "given twice, as 'prompt' and 'Prompt'"),
        (
            "a.csv",
            HEAD + "{} is,Ada,x,\"array(['a'], dtype=object)\"\n",
            "locality: an array as numpy",
        ),
        ("a.csv", "{} is,Ada,x\n{} was,Bob,y\n", "line 1: has to name the columns.* reads '{} is'"),
        ("a.csv", "My facts,,\n" + HEAD, "line 1: has to name the columns"),
        ("a.csv", '"sep=;"\nprompt;subject\n', "line 1: has to name the columns"),
        ("a.csv", "| prompt | subject |\n|---|:--|\n| {} is | Ada |", "line 2: .* Markdown table"),
        ("a.csv", b"prompt\ncaf\xe9\n", "line 2: byte 0xe9 at place 4 .* Windows-1252 it is 'é'"),
        ("a.csv", "prompt\n".encode("utf-16"), "it is UTF-16.* save it in UTF-8"),
        ("a.json", "[]".encode("utf-32"), "it is UTF-32; save it in UTF-8"),
        ("a.pkl", b"", "a pickle can run code .* write the records as JSON"),
        ("a.pt", b"", "a pickle can run code"),
        ("a.xlsx", b"", 'save the sheet as "CSV UTF-8"'),
        ("a.arrow", b"x", "cannot be read"),
    ],
)
def test_faults_are_named_by_place(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RequestError, match=message) as raised:
        load_requests(path)
    assert "\n" not in str(raised.value) and name in str(raised.value)


def test_arrow_columns_that_occur_twice(tmp_path):
    names = ["prompt", "subject", "target_new", "target_new"]
    table = pa.Table.from_arrays([pa.array([x]) for x in ("{} is", "Ada", "x", "y")], names=names)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(RequestError, match="a.parquet: the column 'target_new' occurs 2 times"):
        load_requests(tmp_path / "a.parquet")


@pytest.mark.parametrize("content", ["[1]", "{", '{"splits": 3}', "{}"])
def test_splits_of_a_dataset(tmp_path, content):
    """Whatever the file of splits holds: the folders are named."""
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
    (tmp_path / "dataset_dict.json").write_text(content)
    with pytest.raises(RequestError, match="has the splits test, train; give the folder of one"):
        load_requests(tmp_path)


def test_an_article_in_a_cell(tmp_path):
    """Longer than Python's reader of CSV files takes by default."""
    long = "word " * 40_000
    (tmp_path / "a.csv").write_text(f"prompt,subject,target_new,article\n{{}} is,Ada,x,{long}\n")
    (request,) = load_requests(tmp_path / "a.csv")
    assert request.unused == ("article",)


def test_what_may_be_meant_otherwise_is_said(tmp_path):
    """A target that looks like a list; accents that are written in two ways."""
    (tmp_path / "a.csv").write_text("prompt,subject,target_new\n{} is,Ada,\"['Rome']\"\n")
    (request,) = load_requests(tmp_path / "a.csv")
    assert request.target_new == "['Rome']"
    assert (
        request.remarks[0].what
        == "targets look like lists and are edited as the text that they are"
    )
    row = {"prompt": "Zo\u00eb is", "subject": "Zoe\u0308", "target_new": "x"}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    with pytest.raises(RequestError, match="is not in .* with the same bytes for its accents"):
        load_requests(tmp_path / "a.json")


words = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="{}"), min_size=1)
cells = words.map(str.strip).filter(bool)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(cells, cells, st.lists(cells, max_size=2)), min_size=1, max_size=3),
    st.sampled_from(",;\t|"),
)
def test_any_text_survives_a_table(tmp_path, rows, separator):
    """Quotes, separators and apostrophes inside cells and lists, as pandas writes them."""
    frame = pd.DataFrame(
        [
            {"prompt": f"{i} {{}}", "subject": s, "target_new": t, "paraphrase_prompts": p}
            for i, (s, t, p) in enumerate(rows)
        ]
    )
    frame.to_csv(tmp_path / "a.csv", index=False, sep=separator)
    found = load_requests(tmp_path / "a.csv")
    assert [(r.subject, r.target_new, list(r.paraphrase_prompts)) for r in found] == rows


@given(st.sampled_from(sorted(KNOWN)), st.sampled_from(["upper", "title", "lower"]), st.booleans())
def test_names_in_other_spellings(name, case, spaced):
    written = getattr(name, case)()
    written = f" {written.replace('_', ' ')} " if spaced else written
    assert list(normalised({written: 1}, KNOWN)) == [name]
