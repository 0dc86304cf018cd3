"""The study of the methods of 2025 and 2026."""

import itertools

from seqedit.methods.catalogue import CATALOGUE
from seqedit.study.newcomers import SAME_SUBJECT, families, newcomers


def test_a_label_means_one_run():
    """Families may share a run, and then mean the same by its label; all of them are made."""
    meant = {}
    for parts in families().values():
        assert len(parts) > 1 and len({label for label, *_ in parts}) == len(parts)
        for label, method, settings in parts:
            assert meant.setdefault(label, (method, settings)) == (method, settings), label
    runs = {one.label: one for one in newcomers()}
    assert {label: (one.method, one.settings) for label, one in runs.items()} == meant
    same = {label for label, *_ in families()[SAME_SUBJECT]}
    for label, one in runs.items():
        assert (one.stream == "same_subject") == (label in same), label
        assert (one.requests == "calibration.json") == (label in same), label


def test_parts_of_a_family_differ():
    """Whatever a part changes is another run than its base, also where settings are searched."""
    for title, parts in families().items():
        seen = [(method, tuple(map(str, settings.items()))) for _, method, settings in parts]
        assert len({*seen}) == len(seen), title


def test_order_end_token_and_layer_are_crossed():
    """All combinations, with the same two step sizes and mini-batches."""
    cells = [settings for _, _, settings in families()["order, end token, layer"]]
    names = ("order", "target_end", "layers", "lr")
    found = {tuple(str(cell[name]) for name in names) for cell in cells}
    values = [sorted({key[i] for key in found}) for i in range(len(names))]
    assert [len(own) for own in values] == [2, 2, 2, 2]
    assert found == {*itertools.product(*values)} and {cell["batch"] for cell in cells} == {10}


def test_every_newcomer_is_there():
    """The catalogue's methods of the papers that the chapter is about. (Iterated editing and SimIE
    follow once their settings are searched.)"""
    papers = ("2509.22072", "2602.15823", "2605.11836", "2502.07322", "NAS")
    theirs = {name for name, entry in CATALOGUE.items() if any(p in entry.source for p in papers)}
    assert len(theirs) >= 8 and theirs <= {one.method for one in newcomers()}
