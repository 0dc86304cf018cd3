"""The study of the methods of 2025 and 2026: each beside its base, and one part of it at a time."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from .study_run import StudyRun

Part = tuple[str, str, dict[str, Any]]
"""Label, method and settings of a run."""

SAME_SUBJECT = "same subject"
"""The family whose runs edit two facts of each subject."""

EDITS, ROUND = 400, 50
"""Edits of a run, as many as settings were searched with, and how many of them make a round."""


def families() -> Mapping[str, list[Part]]:
    """Title of a family → its runs; the first is what the others are compared with."""
    return {
        "breadth-first fine-tuning": [
            ("locft_bf", "locft_bf", {}),
            ("locft_bf-no-end", "locft_bf", {"target_end": ""}),
            ("locft_bf-replay-100", "locft_bf", {"replay": 100}),
            ("locft_bf-replay-all", "locft_bf", {"replay": EDITS}),
            ("ft_m", "ft_m", {}),
            ("ft_m-end", "ft_m", {"target_end": "eos"}),
        ],
        "order, end token, layer": [*_orders()],
        "low curvature": [
            ("crispedit-open", "crispedit", {"share": 1e-6}),
            ("crispedit-open-0.005", "crispedit", {"share": 1e-6, "lr": 5e-3}),
            ("crispedit", "crispedit", {}),
            *((f"crispedit-{share:g}", "crispedit", {"share": share}) for share in (0.5, 0.99)),
        ],
        "low curvature, in sequence": [
            ("crispedit_seq", "crispedit_seq", {}),
            ("crispedit", "crispedit", {}),
            *(
                (
                    f"crispedit_seq-released-{lr:g}",
                    "crispedit_seq",
                    {"project": "gradient", "lr": lr},
                )
                for lr in (2e-3, 8e-3)
            ),
            *(
                (f"crispedit_seq-nscl-{lr:g}", "crispedit_seq", {"factors": "inputs", "lr": lr})
                for lr in (2e-2, 1e-1)
            ),
        ],
        "price on outputs": [
            ("memit_seq", "memit_seq", {}),
            *(
                (f"memit_seq-curvature-{damping:g}", "memit_seq+curvature", {"damping": damping})
                for damping in (1.0, 0.1, 0.01)
            ),
        ],
        "price on outputs, projected": [
            ("memit_seq-projected", "memit_seq+null_space", {}),
            *(
                (
                    f"memit_seq-projected-curvature-{damping:g}",
                    "memit_seq+null_space+curvature",
                    {"damping": damping},
                )
                for damping in (0.1, 0.01)
            ),
        ],
        "normalised gradients": [
            ("ultraedit", "ultraedit", {}),
            ("stableedit", "stableedit", {}),
            ("stableedit-cold", "stableedit", {"warm_up": ""}),
            ("stableedit-written", "stableedit", {"warm_up_effect": "edits"}),
            ("stableedit-frozen", "stableedit", {"statistics": "frozen"}),
            *(
                (f"stableedit-none-{eta:g}", "stableedit", {"normalisation": "none", "eta": eta})
                for eta in (0.1, 1.0)
            ),
        ],
        SAME_SUBJECT: [
            ("same-memit", "memit", {}),
            ("same-memit_merge", "memit_merge", {}),
            ("same-memit_seq", "memit_seq", {}),
        ],
        "anchors": [
            ("alphaedit", "alphaedit", {}),
            ("nas", "nas", {}),
            ("nas_pilot", "nas_pilot", {}),
        ],
        "beside weights": [
            ("memit_seq", "memit_seq", {}),
            ("memit_seq-averaged-0.85", "memit_seq+averaged", {"mix": 0.85}),
            ("memit_seq-averaged-0.5", "memit_seq+averaged", {"mix": 0.5}),
            ("grace", "grace", {}),
            ("in_context", "in_context", {}),
            ("in_context_oracle", "in_context_oracle", {}),
        ],
    }


def _orders() -> Iterator[Part]:
    """Order × end token × layer × step size of LocFT-BF, with mini-batches of ten in all, so that
    the two orders make the same steps on the same ten requests.
    """
    for order, end, layer, lr in itertools.product(
        ("breadth", "depth"), ("eos", ""), (4, 1), (4e-3, 1e-3)
    ):
        label = f"{order}-{end or 'no-end'}-{layer}-{lr:g}"
        settings = {"order": order, "target_end": end, "layers": [layer], "lr": lr, "batch": 10}
        yield label, "locft_bf", settings


def newcomers() -> Iterator[StudyRun]:
    """Four hundred edits in one order by the methods of 2025 and 2026, by their bases, and with one
    part of each changed; on one subject twice, from the calibration facts, for MEMIT-Merge.
    """
    told = set()
    for family, parts in families().items():
        same = family == SAME_SUBJECT
        for label, method, settings in parts:
            if label not in told:
                told.add(label)
                yield StudyRun(
                    label,
                    method,
                    settings,
                    n_edits=EDITS,
                    batch_size=ROUND,
                    requests="calibration.json" if same else "records.json",
                    stream="same_subject" if same else None,
                    wild=True,
                )
