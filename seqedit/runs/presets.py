"""Published settings for each method and model, every value with where it was published.

A preset is a configuration file and the values read there, under our names, with what is fixed in
the released code and what only the paper says. All else keeps this project's default and is shown
as such; nothing is filled in from another model. Left out is what cannot be honoured: ROME without
C, as EasyEdit configures it for Qwen2.5-7B, is another method.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..lm.target_loss import TargetConfig
from ..methods.catalogue import canonical, method_parameters
from ..methods.kinds.locate_then_edit import LocateThenEdit
from .settings import build_settings, known_names


@dataclass(frozen=True)
class Preset:
    """Settings of one method on one model.

    Attributes:
        source: configuration file that holds `values`.
        values: our names → values, as `seqedit.runs.settings.build_settings` takes them.
        elsewhere: our names → (value, source) of what the file does not hold.
    """

    source: str
    values: Mapping[str, Any]
    elsewhere: Mapping[str, tuple[Any, str]] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """All values, our names."""
        return dict(self.values) | {name: value for name, (value, _) in self.elsewhere.items()}

    def source_of(self, name: str) -> str:
        """Where a setting was published; this project's default where it was not."""
        if name in self.elsewhere:
            return self.elsewhere[name][1]
        return self.source if name in self.values else "our default; not published there"


HUB_IDS = {
    "gpt2-xl": ("openai-community/gpt2-xl", "gpt2-xl"),
    "gpt-j-6b": ("EleutherAI/gpt-j-6b", "EleutherAI/gpt-j-6B"),
    "llama-2-7b": ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf"),
    "llama-3-8b": ("meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct"),
    "qwen2.5-7b": ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"),
    "smollm2-135m": ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    "gemma3-270m": ("gemma3-270m", "google/gemma-3-270m"),
    "gpt2-medium": ("openai-community/gpt2-medium", "gpt2-medium"),
    "pythia-160m": ("EleutherAI/pythia-160m",),
    "pythia-410m": ("EleutherAI/pythia-410m",),
    "tinyllama-1.1b": ("TinyLlama/TinyLlama-1.1B-Chat-v1.0",),
    "llama-3.2-1b": ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B-Instruct"),
}
"""Model of the presets → its ids on the hub, and its short name if it has one; a preset is found by
these, never by what a name looks like.
"""

PYTHIA_HPARAMS = "github.com/lqinfdim/EditingEvaluation hparams/MEMIT (a209d346)"
ALPHAEDIT = "github.com/jianghoucheng/AlphaEdit hparams/{}"
ENCORE = "github.com/scalable-model-editing/encore hparams/{}"
EASYEDIT = "github.com/zjunlp/EasyEdit hparams/{}"

OURS = "nothing was published; our first trial on CounterFact, not searched"
SEARCHED = "nothing was published; targets by our search, `seqedit tune target`, prices by our rule"
"""Sources of the settings of models for which there are no others."""

XL = {
    "layers": [13, 14, 15, 16, 17],
    "steps": 20,
    "lr": 0.5,
    "clamp": 0.75,
    "kl": 0.0625,
    "weight_decay": 0.5,
}
J = {
    "layers": [3, 4, 5, 6, 7, 8],
    "steps": 25,
    "lr": 0.5,
    "clamp": 0.75,
    "kl": 0.0625,
    "weight_decay": 0.5,
}
LLAMA = {
    "layers": [4, 5, 6, 7, 8],
    "steps": 25,
    "lr": 0.1,
    "clamp": 0.75,
    "kl": 0.0625,
    "weight_decay": 0.5,
}
QWEN = {
    "layers": [4, 5, 6, 7, 8],
    "steps": 25,
    "lr": 0.5,
    "clamp": 4.0,
    "kl": 0.0625,
    "weight_decay": 1e-3,
}
PYTHIA = {"lr": 0.5, "clamp": 0.75, "weight_decay": 0.5}
SMOLLM2 = {
    "layers": [5, 6, 7, 8, 9],
    "steps": 25,
    "lr": 0.3481,
    "clamp": 2.43,
    "weight_decay": 0.05,
}  # data/hyper/smollm2-135m/target.json
GEMMA3 = J | {"layers": [3, 4, 5, 6, 7], "clamp": 4.0}  # of the MLP's output, before its norm
NULL = {"threshold": 2e-2, "l2": 10.0}

TARGETS = {
    "stop_loss": (0.05, "fixed in the released code, compute_z.py"),
    "kl_prompt": ("{} is a", "fixed in the released code, compute_z.py"),
    "separator": (" ", "fixed in the released code, compute_z.py"),
    "context_lengths": ([[10, 5]], "fixed in the released code, get_context_templates"),
}
ROUNDS = {"batch_size": (100, "AlphaEdit (2410.02355), experiments: 2,000 edits, 100 at a time")}
NSE_ROUNDS = (100, "NSE (2410.04045), experiments: 2,000 edits, 100 at a time")
SPACE = (" ", 'our choice; the released NSE finds its targets without: target_separator=""')
ENCORE_ROUNDS = (100, "ENCORE (2502.01636), experiments: 10,000 edits, 100 at a time")
ROME_TARGETS = {
    "stop_loss": (0.05, "fixed in the released code, rome/compute_v.py"),
    "kl_prompt": ("{} is a", "fixed in the released code, rome/compute_v.py"),
    "separator": (" ", "fixed in the released code, rome/rome_main.py"),
}
ROME_CONTEXTS = {
    "context_lengths": ([[5, 10], [10, 10]], "fixed in the released code, rome/rome_main.py")
}


def _memit(source: str, values: Mapping[str, Any], **elsewhere: tuple[Any, str]) -> Preset:
    """A preset of MEMIT's family."""
    return Preset(source, values, TARGETS | ROUNDS | elsewhere)


_MEMIT = {
    "gpt2-xl": _memit(ALPHAEDIT.format("MEMIT/gpt2-xl.json"), XL | {"lam": 20_000}),
    "gpt-j-6b": _memit(
        "github.com/kmeng01/memit hparams/MEMIT/EleutherAI_gpt-j-6B.json", J | {"lam": 15_000}
    ),
    "llama-2-7b": _memit(ENCORE.format("MEMIT/llama2-7b.json"), LLAMA | {"lr": 0.5, "lam": 15_000}),
    "llama-3-8b": _memit(ALPHAEDIT.format("MEMIT/Llama3-8B.json"), LLAMA | {"lam": 15_000}),
    "qwen2.5-7b": _memit(EASYEDIT.format("MEMIT/qwen2.5-7b.yaml"), QWEN | {"lam": 15_000}),
    "smollm2-135m": _memit(SEARCHED, SMOLLM2 | {"lam": 154.0}),
    "gemma3-270m": _memit(OURS, GEMMA3 | {"lam": 100.0}),
    "pythia-160m": _memit(PYTHIA_HPARAMS, PYTHIA | {"layers": [0, 1, 2, 3, 4], "lam": 20_000}),
    "pythia-410m": _memit(PYTHIA_HPARAMS, PYTHIA | {"layers": [5, 6, 7, 8, 9], "lam": 20_000}),
    "tinyllama-1.1b": _memit(
        "github.com/PinzhengWang322/Reveal_Attention_Drift hparams (96259ac9)",
        PYTHIA | {"layers": [3, 4, 5], "clamp": 8.0, "lam": 20_000},
    ),
}
_LLAMA_ROME = LLAMA | {
    "lr": 0.5,
    "clamp": 4.0,
    "weight_decay": 1e-3,
    "context_lengths": [[5, 5], [10, 5]],
}
_ROME = {
    "gpt2-xl": Preset(
        "github.com/kmeng01/rome hparams/ROME/gpt2-xl.json",
        XL | {"layers": [17], "clamp": 4.0},
        ROME_TARGETS | ROME_CONTEXTS,
    ),
    "gpt2-medium": Preset(
        "github.com/kmeng01/rome hparams/ROME/gpt2-medium.json (0874014c)",
        XL | {"layers": [8], "clamp": 3.0},
        ROME_TARGETS | ROME_CONTEXTS,
    ),
    "gpt-j-6b": Preset(
        "github.com/kmeng01/rome hparams/ROME/EleutherAI_gpt-j-6B.json",
        J | {"layers": [5], "steps": 20, "clamp": 4.0},
        ROME_TARGETS | ROME_CONTEXTS,
    ),
    "llama-2-7b": Preset(
        "github.com/mjy1111/PRUNE hparams/ROME/llama2-7b.yaml",
        _LLAMA_ROME | {"layers": [5]},
        ROME_TARGETS,
    ),
    "llama-3-8b": Preset(
        "github.com/mjy1111/PRUNE hparams/ROME/llama3-8b.yaml",
        _LLAMA_ROME | {"layers": [4]},
        ROME_TARGETS,
    ),
}
_EMMET = {"layers": [5], "lr": 0.5, "lam": 100_000, "ridge": 0.1}

PRESETS: dict[str, dict[str, Preset]] = {
    "rome": _ROME,
    "r_rome": _ROME,
    "memit": _MEMIT,
    "memit_seq": _MEMIT,
    "memit_rect": {
        model: _memit(preset.source, preset.values, share=(0.4, "RECT (2401.04700), k = 40 %"))
        for model, preset in _MEMIT.items()
    },
    "memit_prune": _MEMIT,
    "emmet": {
        "gpt2-xl": _memit(
            ENCORE.format("EMMET/gpt2-xl.json"),
            XL | {"layers": [17], "lam": 10_000, "ridge": 0.1},
            batch_size=ENCORE_ROUNDS,
        ),
        "gpt-j-6b": _memit(
            ENCORE.format("EMMET/EleutherAI_gpt-j-6B.json"), J | _EMMET, batch_size=ENCORE_ROUNDS
        ),
        "llama-2-7b": _memit(
            ENCORE.format("EMMET/llama2-7b.json"), LLAMA | _EMMET, batch_size=ENCORE_ROUNDS
        ),
        "llama-3-8b": _memit(
            ENCORE.format("EMMET/llama3-8b.json"), LLAMA | _EMMET, batch_size=ENCORE_ROUNDS
        ),
    },
    "encore": {
        "gpt2-xl": _memit(
            ENCORE.format("ENCORE/gpt2-xl.json"),
            XL | {"lam": 20_000, "gamma": 10.0, "patience": 4},
            batch_size=ENCORE_ROUNDS,
        ),
        "llama-2-7b": _memit(
            ENCORE.format("ENCORE/llama2-7b.json"),
            LLAMA | {"lr": 0.5, "lam": 15_000, "gamma": 10.0, "patience": 3},
            batch_size=ENCORE_ROUNDS,
        ),
        "llama-3-8b": _memit(
            ENCORE.format("ENCORE/llama3-8b.json"),
            LLAMA | {"lr": 0.5, "lam": 15_000, "gamma": 20.0, "patience": 2},
            batch_size=ENCORE_ROUNDS,
        ),
    },
    "alphaedit": {
        "gpt2-xl": _memit(ALPHAEDIT.format("AlphaEdit/gpt2-xl.json"), XL | NULL),
        "gpt-j-6b": _memit(ALPHAEDIT.format("AlphaEdit/EleutherAI_gpt-j-6B.json"), J | NULL),
        "llama-2-7b": _memit(ENCORE.format("AlphaEdit/llama2-7b.json"), LLAMA | NULL),
        "llama-3-8b": _memit(ALPHAEDIT.format("AlphaEdit/Llama3-8B.json"), LLAMA | NULL),
        "qwen2.5-7b": _memit(
            EASYEDIT.format("AlphaEdit/qwen2.5-7b.yaml"), QWEN | NULL | {"l2": 1.0}
        ),
        "smollm2-135m": _memit(SEARCHED, SMOLLM2 | NULL | {"l2": 1.0}),
        "gemma3-270m": _memit(OURS, GEMMA3 | NULL | {"l2": 1.0}),
        "llama-3.2-1b": _memit(
            "github.com/ksananth4424/AlphaEdit-Reproducibility hparams (233e1c1a)",
            LLAMA | NULL | {"layers": [2, 3, 4, 5, 6]},
        ),
    },
    "nse": {
        "gpt2-xl": _memit(
            ALPHAEDIT.format("NSE/gpt2-xl.json"),
            XL | {"lam": 10_000, "done_below": 35, "hopeless_from": 150, "mass": 1.0},
            batch_size=NSE_ROUNDS,
            separator=SPACE,
        ),
        "gpt-j-6b": _memit(
            ALPHAEDIT.format("NSE/EleutherAI_gpt-j-6B.json"),
            J | {"lam": 15_000, "done_below": 15, "hopeless_from": 100, "mass": 0.8},
            batch_size=NSE_ROUNDS,
            separator=SPACE,
        ),
        "llama-3-8b": _memit(
            ALPHAEDIT.format("NSE/Llama3-8B.json"),
            LLAMA | {"lam": 15_000, "done_below": 2.5, "hopeless_from": 50, "mass": 1.0},
            batch_size=NSE_ROUNDS,
            separator=SPACE,
        ),
    },
    "ft": {
        "llama-3-8b": Preset(
            ALPHAEDIT.format("FT/Llama3-8B.json"),
            {"layers": [21], "lr": 5e-4, "steps": 25},
            {"stop_loss": (1e-2, "fixed in the released code, ft_main.py")},
        ),
    },
}
"""method → model → preset."""


def model_of(hub_id: str) -> str | None:
    """The model of the presets that a hub id names; None for a local folder or any other model."""
    return next((model for model, ids in HUB_IDS.items() if hub_id in ids), None)


def find_preset(method: str, model: str) -> Preset:
    """The published settings of a method on a model; combinators after "+" keep their defaults.

    Args:
        model: a name in `HUB_IDS`.

    Raises:
        ValueError: no such model, or nothing published for the method on it; the message lists what
            there is.
    """
    base = canonical(method).partition("+")[0]
    if model not in HUB_IDS:
        raise ValueError(f"preset: no model named {model!r}; there are {', '.join(HUB_IDS)}")
    preset = PRESETS.get(base, {}).get(model)
    if preset is None:
        known = [name for name, models in PRESETS.items() if model in models]
        raise ValueError(
            f"preset: no published settings of {base} on {model} are known that can be honoured; "
            f"there are some of {', '.join(known)}. Give your own with --layers and --set"
        )
    return preset


def preset_rows(method: str, model: str) -> list[tuple[str, Any, str]]:
    """(setting, value, source) of every setting of a method on a model, this project's defaults
    marked as such.
    """
    preset = find_preset(method, model)
    settings = build_settings(method, preset.settings)
    values = vars(settings.target) | vars(settings) | settings.parameters
    names = known_names(method)
    if not isinstance(settings.make(), LocateThenEdit):  # no targets are optimised
        names = [
            name
            for name in names
            if name in (*method_parameters(method), "target_end")
            or name not in vars(TargetConfig())
        ]
    return [(name, values[name], preset.source_of(name)) for name in names]
