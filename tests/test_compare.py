"""What chapters compute from records: what is still written, what is kept, and their picture."""

import pandas as pd
import pytest

from seqedit.study import plots
from seqedit.study.compare import restraint_record, written_and_kept


def evaluation(edits: int, *by_age: tuple[int, float]) -> dict:
    """A row of `evaluations`; of each age, youngest first: number of edits, and share right."""
    ages = [{"age": age, "n": n, "accuracy": right} for age, (n, right) in enumerate(by_age)]
    return {"label": "a", "method": "memit", "seed": 1, "edits": edits, "retention": ages}


def test_what_is_written_and_what_is_kept():
    """The first evaluation saw two rounds; at the second they are the two oldest of four, of which
    a sample has three and one.
    """
    frame = pd.DataFrame(
        [
            evaluation(20, (10, 1.0), (10, 0.5)),
            evaluation(40, (2, 0.5), (2, 1.0), (3, 1.0), (1, 0.0)),
        ]
    )
    found = written_and_kept(frame)
    assert found["edits"].tolist() == [20, 40]
    assert found["fresh"].tolist() == [100.0, 50.0]
    assert found["first"].tolist() == [75.0, 75.0]


def two_paths(edits: list[int], kept: list[float], facts: list[float]) -> pd.DataFrame:
    """Two evaluations of MEMIT, then two of AlphaEdit."""
    method = ["memit", "memit", "alphaedit", "alphaedit"]
    return pd.DataFrame({"method": method, "edits": edits, "kept": kept, "facts": facts})


def test_a_path_for_each_method():
    """In the order of the edits, whatever that of the rows, and named in its colour."""
    frame = two_paths([200, 100, 100, 200], [50.0, 90.0, 95.0, 80.0], [40.0, 70.0, 85.0, 60.0])
    (ax,) = plots.paths(frame, "kept", "facts", "edits kept, %", "facts kept, %").axes
    assert [line.get_xydata().tolist() for line in ax.lines] == [
        [[90.0, 70.0], [50.0, 40.0]],
        [[95.0, 85.0], [80.0, 60.0]],
    ]
    named = {text.get_color(): text.get_text() for text in ax.texts}
    assert [named[line.get_color()] for line in ax.lines] == ["MEMIT", "AlphaEdit"]
    marks = [points.get_sizes() for points in ax.collections]
    assert all(sizes[0] < sizes[1] for sizes in marks)


def test_names_of_paths_that_end_together():
    """They lie neither on each other nor on a path nor outside; those of dashed paths are told."""
    frame = two_paths([100, 200, 100, 200], [95.0, 80.0, 96.0, 79.0], [60.0, 15.0, 60.0, 15.0])
    dashed = frame.assign(kept=frame["kept"] - 30)
    figure = plots.paths(frame, "kept", "facts", "x", "y", dashed=dashed, dashed_as=", other")
    (ax,) = figure.axes
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    told = [text.get_text() for text in ax.texts]
    assert sorted(told) == ["AlphaEdit", "AlphaEdit, other", "MEMIT", "MEMIT, other"]
    assert [line.get_linestyle() for line in ax.lines] == ["-", "-", "--", "--"]
    for one, box in enumerate(boxes):
        assert ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max)
        assert not any(box.overlaps(other) for other in boxes[:one])
        for line in ax.lines:
            assert not line.get_path().transformed(ax.transData).intersects_bbox(box, filled=False)


@pytest.mark.parametrize("column", ["fresh", "first"])
def test_shares_are_percent(column):
    found = written_and_kept(pd.DataFrame([evaluation(10, (10, 0.3))]))
    assert found[column].tolist() == [pytest.approx(30.0)]


def test_restraint_records():
    """Rows rise in each restraint, and a whole average is the run itself."""
    for model in ("smollm2-135m", "embedded"):
        for method in ("memit_seq", "alphaedit"):
            rows, record = restraint_record(model, method)
            assert rows.index.is_monotonic_increasing and record["method"] == method
            assert rows.loc[("averaged", 1.0), "length"] == pytest.approx(1.0, rel=1e-4)
            assert {layer["count"] for layer in record["sums"]} <= {192, 576}
