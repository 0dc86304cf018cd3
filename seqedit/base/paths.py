"""Where the project's files are, named once; set SEQEDIT_ROOT to work on another checkout's data."""

import os
from pathlib import Path

ROOT = Path(os.environ.get("SEQEDIT_ROOT", Path(__file__).resolve().parents[2]))
DATA = ROOT / "data"
MODEL = DATA / "model"
EDITORS = DATA / "editors"
MOMENTS = DATA / "moments.safetensors"
RESULTS = DATA / "results"
RUNS = DATA / "runs"
WORLD = DATA / "world"
