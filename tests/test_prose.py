"""Measured numbers in the prose of the chapters are filled in from records, not typed."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = {"api", "architecture", "bibliography", "request_files"}  # pages without measurements
CHAPTERS = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "chapters").glob("*.md"))
    if path.stem not in REFERENCE
}

FRACTION = r"(?:half|halves|thirds?|quarters?|fifths?|tenths?|twice|doubled?|\w+fold)"
MEASURED = re.compile(
    rf"""(?<![\w.,])\d[\d.,]*\s*(?:%|percent\b|per\ cent\b|points?\b|times\b)  # 12.3 %, 7 points
    | ±\s*\d[\d.]*                                                            # ± 3
    | (?<![\w.,])\d+\.\d+(?![\w.])                                            # 1.97
    | \b{FRACTION}\b | \b(?:two|three|four|five|ten|hundred)\ times\b         # a third, ten times
    | \b\w+\ (?:in|of)\ ten\b""",
    re.IGNORECASE | re.VERBOSE,
)

CONVENTIONS = (
    r"(?:±\s*(?:half its|a)?\s*)?95 % (?:confidence )?intervals?",  # level of all intervals
    r"\bclamps?(?: of)?,? (?:1 or )?0\.75(?: (?:instead of|for|against) \w+)?",  # the two clamps
    r"\b(?:[Ff]rom )?1 to 0\.75\b|\b0\.75 and 1\b|\b0\.75 against 1\b",
    r"(?:α|τ|λ|L2|p|c)\s*=\s*[\d.,]+",  # a setting and its value
    r"[Ss]econd moments? below (?:τ = )?0\.02",  # the threshold of a table
    r"arXiv \d{4}\.\d{5}",
    r"[Aa]dded twice|double precision|half precision|in double copies",
)
"""What is no measurement wherever it stands."""

EXCEPTIONS = {
    "architectures": {
        "third table": "a table's number",
        "The third\nsays": "a table's number",
        "Qwen 2.5": "a name",
        "an efficacy of 0.43 on Gemma 2 2B": "a paper's number through a secondary source",
        "arXiv:2606.26783": "a number of a paper",
        "arxiv.org/abs/2606.26783": "an address",
    },
    "preflight": {
        "power of 80 % at a level of 5 %": "what is asked of the test",
        "the mean is at least 90 %": "definition of a verdict",
        "the interval lies below 95 %": "definition of a verdict",
        "Half the length of the 95 % interval": "what the table shows",
    },
    "choices": {
        "40 % of the entries": "setting of RECT",
        "lower 95 % of a sample": "definition in released code",
        "beyond twice the mean": "definition in released code",
        "three times a matrix": "size of an array",
        "ridge 0.1": "setting of released code",
        "0.75 and 1 |": "values that follow from a definition, held by a test",
    },
    "condition": {"a tenth of that size": "what the figure draws"},
    "findings": {
        "the doubled beginning-of-sequence token": "a token that stands there twice",
        "one in twenty": "meaning of the level 95 %",
        "same clamp of 0.75": "setting",
        "At one clamp, 0.75": "setting",
    },
    "forgetting": {
        "2.5 standard deviations": "Student's t with two degrees of freedom",
        "(a share of 0.9)": "setting of RECT",
        "Nothing says that 0.75": "setting",
        "All at one clamp, 0.75": "setting",
    },
    "history": {
        "entries of an update, 40 % or 90 % of them": "settings of RECT",
        "RECT that keeps 90 %": "setting of RECT",
        "RECT that keeps 40 %": "setting of RECT",
        "at most a tenth of the size of the first one": "setting of the bound",
    },
    "lifelong": {
        "after which half of what the model knew": "definition of the wall",
        "fewer than half of the unrelated": "definition of the wall",
        "fewer than half are right": "definition of the wall",
        "*other* methods had lost half": "definition of the wall",
        "a third of the mean residual": "three layers share a residual",
        '"A third of the residual per layer"': "three layers share a residual",
    },
    "matters": {
        "Half the clamp": "setting",
        "a quarter of it by": "setting",
        "Twice the clamp": "setting",
        "on a tenth of the statistics": "a paper's setting",
        "**Half the digits.**": "bfloat16 against float32",
        "L2 between 0.01 and 1": "setting",
        "From 0.01 to 0.1": "setting",
        "At 0.002 too few": "setting",
        "at 0.5 hardly any": "setting",
    },
    "newcomers": {
        "from about half to more than nine in ten": "a paper's numbers",
    },
    "nse": {
        "hold 80 % of the mass": "setting of NSE",
        "with 40 %, by": "setting of NSE",
        "45.6 % on average": "a paper's number through a secondary source",
    },
    "null_space": {
        "For 99 % of the tokens": "the quantile that is reported",
        "a third of the edits as history": "setting",
    },
    "one_formula": {
        "there and back, twice": "counts products",
        "ten times as many operations": "how grid lines are drawn",
    },
    "pictures": {"two and a half times MEMIT's": "what the figure draws"},
    "projection": {
        "by 36.4 % on average": "the paper's claim, quoted",
        "+36.4 %, after two": "the paper's claim, quoted",
        "36.7 % the published one": "the paper's claim, quoted",
        "uppermost tenth": "the quantile that is reported",
        "between\n70 % and nearly all": "accounts of others on the papers' models",
        "a threshold of 0.02": "setting",
        "bases (0.02, the released": "setting",
        "threshold here is 0.05": "setting",
    },
    "prune": {
        "α tried here are 1.2, 2": "settings",
        "down to 1.02": "end of a range",
        "1.2 was also the smallest": "setting",
        "at α of 1.2, 2": "settings",
    },
    "robustness": {
        "at 100 % it finds": "meaning of the scale",
        "at 50 % it guesses": "meaning of the scale",
    },
    "setting": {"a third word ahead": "an ordinal"},
    "targets": {
        "Three times most probable": "setting of ENCORE",
        "once or three times": "setting of ENCORE",
        "hold four fifths": "setting of NSE, p = 0.8",
        "driving the loss to 0.05": "setting",
    },
}
"""Chapter → what stands in its prose and looks like a measurement → why it is none."""

PUBLISHED = {"full_scale"}  # other people's numbers, see test_published_tables
NOT_IN_RECORDS = {"measuring"}
"""Chapters with a table that says, above it, that its numbers are not in the records."""


def captions(cell: str) -> list[str]:
    """Captions and alternative texts of figures and captions of tables in a code cell."""
    figures = re.findall(r'"(?:caption|alt)": "((?:[^"\\]|\\.)*)"', cell)
    tables = re.findall(r'f?"((?:[^"\\\n]|\\.)*)",\s*"tab-[\w-]+"', cell)
    return figures + tables


def prose(text: str) -> str:
    """What a reader reads: no header, code, mathematics, glue, citations, headings; captions and
    alternative texts at the end."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    shown = []

    def strip(cell: re.Match) -> str:
        shown.extend(captions(cell.group()))
        return ""

    text = re.sub(r"^(`{3,})[^\n]*\n.*?^\1$", strip, text, flags=re.DOTALL | re.MULTILINE)
    text = "\n".join([text, *(re.sub(r"\{[^{}`]*\}", "", caption) for caption in shown)])
    text = re.sub(r"^(?:#|:label:|\(sec-|:::+).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", "", text, flags=re.DOTALL)
    return re.sub(r"(?:\{[\w:]+\})?`[^`]*`", "", text)


def typed_numbers(chapter: str) -> list[str]:
    """What looks like a measured number in a chapter's prose and is no known exception."""
    text = prose(CHAPTERS[chapter])
    if chapter in NOT_IN_RECORDS:
        text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    for known in EXCEPTIONS.get(chapter, ()):
        text = text.replace(known, "")
    text = re.sub("|".join(CONVENTIONS), "", text)
    return [
        text[max(0, found.start() - 60) : found.end() + 40].replace("\n", " ")
        for found in MEASURED.finditer(text)
    ]


@pytest.mark.parametrize("chapter", sorted({*CHAPTERS} - PUBLISHED))
def test_measured_numbers_come_from_records(chapter):
    """Fill such a number in with `glue`, drop it, or say in EXCEPTIONS why it is no measurement."""
    assert typed_numbers(chapter) == []


@pytest.mark.parametrize("chapter", sorted(EXCEPTIONS))
def test_exceptions_are_in_use(chapter):
    """An exception that stands nowhere any more is removed."""
    text = prose(CHAPTERS[chapter])
    assert [known for known in EXCEPTIONS[chapter] if known not in text] == []


def test_typed_numbers_are_found(monkeypatch):
    """The search itself finds numbers in prose and in alternative texts, none in code or glue."""
    text = """---\ntitle: 1.5\n---\n# Up 3 points\nEdits rise by {glue:text}`x` and 12 %,
a third, or ± 3.
The perplexity is 1.97, at clamp 0.75 with 95 % intervals; $x = 0.5$ and `0.25`.

```{code-cell} ipython3
:mystnb: {"figure": {"caption": "Lines."}, "image": {"alt": "Curves fall by 7 points"}}
x = 3.5
markdown_table(frame, f"Lost, ten times {x:.2f}", "tab-x")
```
"""
    monkeypatch.setitem(CHAPTERS, "x", text)
    found = [MEASURED.search(place).group() for place in typed_numbers("x")]
    assert len(typed_numbers("x")) == 6
    assert found[0] == "12 %"
    text = " ".join(typed_numbers("x"))
    assert "± 3" in text and "1.97" in text and "7 points" in text and "ten times" in text
    assert "3.5" not in text and "0.25" not in text


def test_published_tables():
    """The table in "At full scale" says what data/published.json says."""
    published = json.loads((ROOT / "data" / "published.json").read_text(encoding="utf-8"))
    numbers = {
        (row["model"], row["dataset"], row["name"]): tuple(
            f"{row[kind]:.2f}" for kind in ("efficacy", "paraphrase", "neighborhood")
        )
        for row in published
        if row["status"] == "primary"
    }
    model, compared = "", 0
    for line in CHAPTERS["full_scale"].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5 or " / " not in cells[-1] or cells[0] == "model":
            continue
        model = cells[0] or model
        for dataset, cell in zip(("CounterFact", "ZsRE"), cells[3:], strict=True):
            assert tuple(cell.split(" / ")) == numbers[model, dataset, cells[1]], line
            compared += 1
    assert compared == 2 * 21
