"""Tables in Apache's formats: .parquet, .arrow and .feather files, and folders of `datasets`."""

import json
from pathlib import Path
from typing import Any

from .fields import check_repeated
from .parquet_size import check_rows
from .plain import RequestError
from .text_files import read_bytes

INDEX = "__index_level_"
"""How the names begin of columns in which pandas keeps a frame's index."""


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(read_bytes(path)))
    check_rows(file.metadata.num_rows, path)
    return _rows(file.read())


def read_arrow(path: Path) -> list[dict[str, Any]]:
    """The rows of an Arrow file, a stream as `datasets` writes it or a file as pandas does."""
    import pyarrow.ipc

    content = pyarrow.BufferReader(read_bytes(path))
    try:
        return _rows(pyarrow.ipc.open_stream(content).read_all())
    except pyarrow.ArrowInvalid:
        content.seek(0)
        return _rows(pyarrow.ipc.open_file(content).read_all())


def read_saved(folder: Path) -> list[dict[str, Any]]:
    """The rows of a dataset that `datasets` saved to a folder.

    Raises:
        RequestError: the folder is no such dataset, or has several splits.
    """
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise RequestError(f"has the splits {', '.join(names)}; give the folder of one of them")
    return [row for file in saved_files(folder) for row in read_arrow(file)]


def saved_files(folder: Path) -> list[Path]:
    """The files of a dataset that `datasets` saved to a folder, in order.

    Raises:
        RequestError: the folder is no such dataset.
    """
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return [folder / Path(file["filename"]).name for file in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            "is a folder, but not one that `datasets` saved; give a file of requests"
        ) from error


def _rows(table: Any) -> list[dict[str, Any]]:
    """The rows of a table without the index that pandas adds."""
    kept = [name for name in table.column_names if not name.startswith(INDEX)]
    check_repeated(kept, "column")
    return table.select(kept).to_pylist()
