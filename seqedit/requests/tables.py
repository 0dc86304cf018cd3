"""Tables of text: .csv, .tsv and .txt files as pandas and spreadsheets write them."""

import ast
import csv
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .fields import Placed, check_repeated, normalised
from .plain import PROBES, PROMPTS, Record
from .text_files import read_text

SEPARATORS = ",;\t|"

LISTS = {*PROMPTS, *PROBES}
"""Columns that hold a list; a cell that is no list is a single prompt."""

TARGETS = ("target_new", "target_true")
"""Columns that hold a text, or CounterFact's object of text and identifier."""

STRUCTURED = LISTS | {
    *("requested_rewrite", "ground_truth", "answers", "rephrase", "rephrase_prompt", "edit"),
    *("locality_prompt", "locality_ground_truth", "questions", "generality", *TARGETS),
    *("portability_prompt", "portability_ground_truth", "sub_question", "sub_answer"),
}
"""Columns whose cells may hold a list or an object, as JSON or as Python writes it."""


MARKDOWN_RULE = re.compile(":?-{2,}:?")

csv.field_size_limit(2**31 - 1)  # a cell may hold an article


def read_table(path: Path, known: frozenset[str]) -> list[Record]:
    """The rows of a table as records without their empty cells; rows know their lines.

    What separates the cells is told from the header; a first line "sep=;", as Excel takes it, says
    it. Rows without any text are skipped.

    Args:
        path: the file.
        known: names of columns that are read.

    Raises:
        ValueError: a row cannot be read; the message names line and column.
        RequestError: a column occurs twice.
    """
    text, first = read_text(path), 1
    head, _, rest = text.partition("\n")
    if head.lower().startswith("sep=") and len(head.strip("\r")) == 5:
        separator, text, first = head[4], rest, 2
    else:
        separator = _separator(_header(text), known)
    lines = _rows(text, separator, first)
    try:
        line, names = next(lines, (first, []))
        names = [name.strip() for name in names]
        check_repeated(names, "column")
        names = [name or f"column {i}" for i, name in enumerate(names, start=1)]
        if names:
            names = list(normalised(dict.fromkeys(names), known))
            _check_header(names, known, f"line {line}")
        return [
            _record(names, row, line, number)
            for number, (line, row) in enumerate(
                (line, row) for line, row in lines if any(cell.strip() for cell in row)
            )
        ]
    except csv.Error as error:
        raise ValueError(str(error)) from error


def _check_header(names: list[str], known: frozenset[str], where: str) -> None:
    """Raises csv.Error for a header in which no name is known."""
    if not known & set(names):
        raise csv.Error(
            f"{where}: has to name the columns, such as prompt, subject and target_new, but reads "
            f"{', '.join(map(repr, names))[:100]}"
        )


def _header(text: str) -> str:
    """The first line that is not empty."""
    return next((line for line in text.splitlines() if line), "")


def _separator(header: str, known: frozenset[str]) -> str:
    """The separator by which a header has the most known names, else the most names."""

    def names(separator: str) -> tuple[int, int]:
        row = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
        own = [name.strip() for name in row]
        return len(set(normalised(dict.fromkeys(own), known)) & known), len(own)

    return max(SEPARATORS, key=names)


def _rows(text: str, separator: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table, each with the number of the line in which it begins.

    Blanks after separators belong to the cells unless all names of the header have them.
    """
    header = _header(text).split(separator)
    spaced = len(header) > 1 and all(name.startswith(" ") for name in header[1:])
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=spaced
    )
    begin = first
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise csv.Error(
                f"line {begin}: {error}; put quotes around cells with quotes, {separator!r} or "
                "line ends in them, and double the quotes inside"
            ) from error
        if row:
            yield begin, row
        begin = first + reader.line_num


def _record(names: list[str], row: list[str], line: int, number: int) -> Placed:
    """The record of a row. Raises csv.Error for too many cells, or a list that cannot be read."""
    if all(MARKDOWN_RULE.fullmatch(cell.strip()) for cell in row if cell.strip()):
        raise csv.Error(f"line {line}: is the rule of a Markdown table; save the table as CSV")
    more = [cell for cell in row[len(names) :] if cell.strip()]
    if more:
        raise csv.Error(
            f"line {line}: row {number} has more cells than there are columns, {more[0]!r} among "
            "them; put quotes around cells with separators"
        )
    record: Record = {}
    for name, cell in zip(names, row, strict=False):
        if cell.strip():
            record[name] = _value(name, cell, f"line {line}, column {name}")
    return Placed(record, f"line {line}")


def _value(name: str, cell: str, where: str) -> Any:
    """What a cell holds. Raises csv.Error for a list that cannot be read."""
    if name == "case_id":
        return _number(cell)
    structured = cell.strip()[0] in "[{" and cell.strip()[-1] in "]}"
    if name in STRUCTURED and (structured or name in LISTS and cell.lstrip().startswith("[")):
        try:
            value = _structure(cell)
            return cell if name in TARGETS and not isinstance(value, dict) else value
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            if name in LISTS:
                raise csv.Error(
                    f"{where}: not valid JSON, nor a list as Python writes it: {error}"
                ) from error
    if name in LISTS and cell.lstrip().startswith("array("):
        raise csv.Error(f"{where}: an array as numpy prints it; write a list, ['a', 'b']")
    return [cell] if name in LISTS else cell


def _number(cell: str) -> int | str:
    """An identifier: a number if it is written as one, also as "7.0"; else text."""
    number = cell.strip().removesuffix(".0")
    return int(number) if number.isdecimal() and str(int(number)) == number else cell


def _structure(cell: str) -> Any:
    """A list or object, as JSON or as Python writes it. Raises ValueError or SyntaxError."""
    try:
        return json.loads(cell)
    except json.JSONDecodeError as error:
        try:
            value = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError):
            raise error from None
    if _strings_side_by_side(cell):
        raise ValueError("two texts stand side by side without a comma, as numpy prints them")
    return value


def _strings_side_by_side(cell: str) -> bool:
    """Whether Python would read two texts without a comma between them as one."""
    tokens = tokenize.generate_tokens(io.StringIO(cell.strip()).readline)
    kinds = [token.type for token in tokens if token.type != tokenize.NL]
    return (tokenize.STRING, tokenize.STRING) in zip(kinds, kinds[1:], strict=False)
