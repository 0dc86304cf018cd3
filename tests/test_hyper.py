"""Settings: our names, the released files' names, and who wins."""

import json
from dataclasses import fields

import pytest
from workspace import Workspace

from seqedit.lm.target_loss import TargetConfig
from seqedit.methods.catalogue import METHODS, make_method, method_parameters
from seqedit.methods.combinators import COMBINATORS
from seqedit.methods.kinds.locate_then_edit import LocateThenEdit
from seqedit.runs.config import RunConfig
from seqedit.runs.hyper_files import read_hyper
from seqedit.runs.job import prepare
from seqedit.runs.resolve import resolve
from seqedit.runs.settings import build_settings, known_names, parse_assignments

COMMON = {
    "layers": [1, 2],
    "clamp_norm_factor": 0.75,
    "fact_token": "subject_last",
    "v_num_grad_steps": 20,
    "v_lr": 0.1,
    "v_loss_layer": 2,
    "v_weight_decay": 0.25,
    "kl_factor": 0.5,
    "mom2_adjustment": True,
    "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj",
    "layer_module_tmp": "transformer.h.{}",
    "mlp_module_tmp": "transformer.h.{}.mlp",
    "attn_module_tmp": "transformer.h.{}.attn",
    "ln_f_module": "transformer.ln_f",
    "lm_head_module": "lm_head",
    "mom2_dataset": "wikipedia",
    "mom2_n_samples": 100000,
    "mom2_dtype": "float32",
}
RELEASED = {
    "memit": COMMON | {"layer_selection": "all", "mom2_update_weight": 15000},
    "memit_seq": COMMON | {"layer_selection": "all", "mom2_update_weight": 15000},
    "alphaedit": COMMON
    | {
        "layer_selection": "all",
        "mom2_update_weight": 15000,
        "nullspace_threshold": 0.02,
        "L2": 10,
    },
    "rome": COMMON | {"layers": [1], "context_template_length_params": [[5, 10], [10, 10]]},
    "r_rome": COMMON | {"layers": [1], "context_template_length_params": [[5, 10], [10, 10]]},
}
OURS = {"clamp": 0.75, "steps": 20, "lr": 0.1, "weight_decay": 0.25, "kl": 0.5}


@pytest.fixture
def read(tiny_lm, tmp_path):
    """`read_hyper` of a JSON value."""
    lm = tiny_lm("gpt2")

    def read(content, method="memit", given=True):
        path = tmp_path / "h.json"
        path.write_text(json.dumps(content))
        return read_hyper(path, method, lm, given)

    return read


@pytest.mark.parametrize("method", RELEASED)
def test_released_names(read, method):
    """Each released field sets the setting that it belongs to.

    Fields that change nothing are each remarked on once.
    """
    values, remarks = read(RELEASED[method], method)
    extra = {
        "memit": {"lam": 15000},
        "memit_seq": {"lam": 15000},
        "alphaedit": {"threshold": 0.02, "l2": 10},
    }
    lengths = {"context_lengths": [[5, 10], [10, 10]]} if "rome" in method else {}
    assert values == OURS | {"layers": RELEASED[method]["layers"]} | extra.get(method, {}) | lengths
    ignored = {"attn_module_tmp", "mlp_module_tmp", "mom2_dataset", "mom2_n_samples", "mom2_dtype"}
    ignored |= set() if "rome" in method else {"mom2_adjustment"}
    ignored |= {"mom2_update_weight", "layer_selection"} if method == "alphaedit" else set()
    assert sorted(remark.split()[0] for remark in remarks) == sorted(ignored)
    settings = build_settings(method, values)
    assert settings.target == TargetConfig(**OURS) and settings.layers == tuple(
        RELEASED[method]["layers"]
    )
    assert settings.context_lengths == (((5, 10), (10, 10)) if lengths else ((10, 5),))
    assert settings.make().name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fact_token", "last"),
        ("v_loss_layer", 5),
        ("rewrite_module_tmp", "transformer.h.{}.mlp.c_fc"),
        ("layer_module_tmp", "x"),
        ("ln_f_module", "x"),
        ("lm_head_module", "x"),
        ("fp16", True),
        ("model_parallel", True),
        ("layer_selection", "random"),
        ("alg_name", "PMET"),
    ],
)
def test_what_cannot_be_honoured(read, field, value):
    with pytest.raises(
        ValueError, match=f"h.json: {field} = {value!r} cannot be honoured; here it is"
    ):
        read(RELEASED["memit"] | {field: value})


def test_rome_needs_its_adjustment(read):
    """ROME without C is another method; MEMIT's code never looks."""
    with pytest.raises(ValueError, match="mom2_adjustment = False cannot be honoured"):
        read(RELEASED["rome"] | {"mom2_adjustment": False}, "rome")
    read(RELEASED["memit"] | {"mom2_adjustment": False}, "memit")


def test_statistics_that_are_not_there(read):
    with pytest.raises(
        ValueError, match="mom2_dataset = 'wikipedia' cannot be honoured: .*--moments.*--corpus"
    ):
        read(RELEASED["memit"], given=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"lamda": 3}, "unknown field 'lamda'; memit takes .*lam.*by their released names"),
        ({"nullspace_threshold": 0.1}, "unknown field 'nullspace_threshold'"),
        ({"lam": 3, "mom2_update_weight": 4}, "lam is given twice"),
        ([], "must hold an object"),
        (3, "must hold an"),
    ],
)
def test_unknown_fields(read, content, message):
    with pytest.raises(ValueError, match=message):
        read(content)


def test_our_own_file(read):
    """Our names in a file are our names."""
    assert read({"lam": 3, "layers": [1], "batch_size": 7}) == (
        {"lam": 3, "layers": [1], "batch_size": 7},
        [],
    )


def test_parameters_do_not_hide_settings_of_targets():
    """Parameters of methods and combinators share no name with the target optimisation.

    This holds for the methods with targets and for all combinators.
    """
    target = {field.name for field in fields(TargetConfig)}
    for name in [
        *(n for n in METHODS if isinstance(make_method(n), LocateThenEdit)),
        *(f"memit+{combine}" for combine in COMBINATORS),
    ]:
        assert not target & method_parameters(name).keys(), name


def test_defaults():
    """Settings that are not given take the defaults of the method and of published targets.

    Without layers there is nothing to edit, which is an error.
    """
    for method in METHODS:
        settings = build_settings(method, {"layers": [1]})
        assert (
            settings.parameters == method_parameters(method) and settings.target == TargetConfig()
        )
        assert settings.batch_size is None and settings.max_update_ratio == 10.0
    with pytest.raises(ValueError, match="layers: none given"):
        build_settings("memit", {})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lam", "much", "number"),
        ("lam", 0, "must be positive"),
        ("lam", -2.0, "must be positive"),
        ("lam", None, "number"),
        ("lr", 0, "must be positive"),
        ("clamp", -1, "must be positive"),
        ("kl", -0.1, "must not be negative"),
        ("weight_decay", -1, "must not be negative"),
        ("steps", 2.5, "integer"),
        ("steps", 1, "at least 2"),
        ("layers", 3, "tuple"),
        ("layers", ["a"], "integer"),
        ("context_lengths", [[10]], "required"),
        ("context_lengths", [[10, 0]], "positive"),
        ("batch_size", 0, "must be positive"),
        ("kl_prompt", "is a", 'must hold "{}"'),
        ("kl_prompt", 7, "string"),
        ("max_update_ratio", -1, "must be positive"),
        ("lam", True, "true and false are no numbers"),
        ("layers", [True], "true and false are no numbers"),
        ("lam", "1_0", "without _"),
        ("threshold", 0.1, "no setting"),
    ],
)
def test_types_and_ranges(name, value, message):
    """The message names the setting and repeats the value."""
    with pytest.raises(ValueError, match=name) as error:
        build_settings("memit", {"layers": [1]} | {name: value})
    assert message in str(error.value) and (
        repr(value) in str(error.value) or name == "threshold" or "context" in name
    )


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("name", ["lam", "lr", "clamp", "kl", "max_update_ratio"])
def test_settings_are_finite(name, value):
    """JSON read by Python may hold NaN and infinities; no setting may."""
    with pytest.raises(ValueError, match=name):
        build_settings("memit", {"layers": [1]} | parse_assignments([f"{name}={value}"]))


def test_values_are_converted():
    settings = build_settings(
        "memit", {"layers": [1, 2], "lam": 3, "steps": 7, "context_lengths": [[4, 2]]}
    )
    assert isinstance(settings.parameters["lam"], float) and settings.layers == (1, 2)
    assert settings.context_lengths == ((4, 2),) and settings.target.steps == 7


def test_zero_where_it_is_the_default():
    """A parameter whose default is 0 can be set back to it; others must be positive."""
    settings = build_settings("locft_bf", {"layers": [1], "replay": 0, "batch": 7})
    assert settings.parameters["replay"] == 0 and settings.parameters["batch"] == 7
    with pytest.raises(ValueError, match="batch = 0: must be positive"):
        build_settings("locft_bf", {"layers": [1], "batch": 0})


def test_assignments():
    """Values are read as JSON where they can be, otherwise as text.

    A name is given once, and "=" may occur in a value.
    """
    words = ["lam=3", "layers=[1,2]", "kl_prompt={} is = a", "lr=1e-1"]
    assert parse_assignments(words) == {
        "lam": 3,
        "layers": [1, 2],
        "kl_prompt": "{} is = a",
        "lr": 0.1,
    }
    with pytest.raises(ValueError, match="--set lam: is given twice"):
        parse_assignments([*words, "lam=4"])
    assert parse_assignments(["a="]) == {"a": ""} and parse_assignments([]) == {}
    with pytest.raises(ValueError, match="--set 'lam': expected key=value"):
        parse_assignments(["lam"])


def test_known_names():
    assert {"threshold", "l2", "steps", "lr", "layers", "context_lengths"} <= set(
        known_names("alphaedit")
    )
    assert "lam" not in known_names("alphaedit") and "l2" not in known_names("memit")


def test_precedence(tmp_path, tiny_folder, monkeypatch):
    """--set over --hyper over the defaults, one by one; --batch-size over the file's."""
    monkeypatch.setenv("SEQEDIT_CACHE", str(tmp_path / "cache"))
    space = Workspace(tmp_path, tiny_folder)
    hyper = space.write(
        "h.json", {"lam": 7, "v_num_grad_steps": 9, "layers": [0, 1], "batch_size": 4}
    )
    config = RunConfig(
        model=str(tiny_folder),
        requests=tmp_path / "requests.json",
        method="memit",
        hyper=hyper,
        settings={"steps": 5, "layers": [1]},
        corpus=tmp_path / "corpus.txt",
        device="cpu",
        contexts=tmp_path / "contexts.json",
    )
    job = prepare(config)
    assert (
        job.settings.parameters == {"lam": 7.0}
        and job.settings.target.steps == 5
        and job.settings.layers == (1,)
    )
    assert job.settings.target.lr == TargetConfig().lr and [len(batch) for batch in job.rounds] == [
        4,
        1,
    ]
    assert space.call(hyper=hyper, layers="1", batch_size=3, set="lam=8").exit_code == 0
    record = json.loads((space.out / "run.json").read_text())["parameters"]
    assert (record["batch_size"], record["layers"], record["parameters"]) == (3, [1], {"lam": 8.0})
    assert record["target"]["steps"] == 9


def test_targets_that_were_searched_for_a_model(tmp_path, tiny_lm, monkeypatch):
    """They serve every method that has such targets and no settings of its own on the model; one
    that edits a single layer chooses that as always. What is given goes over them."""
    monkeypatch.setattr("seqedit.runs.resolve.HYPER", tmp_path)
    monkeypatch.setattr("seqedit.runs.resolve.model_of", lambda name: "some-model")
    searched = {"lr": 0.3, "clamp": 2.0, "steps": 7, "weight_decay": 0.05, "layers": [0, 1]}
    (tmp_path / "some-model").mkdir()
    (tmp_path / "some-model" / "target.json").write_text(json.dumps(searched))
    lm, told = tiny_lm("gpt2"), []

    def settings_of(method, **given):
        config = RunConfig(model="m", requests="world", method=method, settings=given)
        return resolve(config, lm, say=told.append)

    for method in ("memit", "alphaedit", "nse+rewind"):
        found = settings_of(method)
        assert (found.target.lr, found.target.clamp, found.target.steps) == (0.3, 2.0, 7)
        assert found.layers == (0, 1)
    assert told[0] == "targets by data/hyper/some-model/target.json, searched for this model"
    assert settings_of("memit", clamp=1.0, layers=[1]).target.clamp == 1.0
    assert settings_of("rome").target.lr == 0.3 and len(settings_of("rome").layers) == 1
    assert settings_of("ft_m").target == TargetConfig()  # it has no targets


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("h.json", "[" * 100_000, "cannot be read"),
        ("h.yaml", "? [a]\n: 1\n", r"unknown field \"\['a'\]\""),
        ("h.yaml", "lam: 1\n? [lam]\n: 1\n", r"unknown field \"\['lam'\]\""),
    ],
)
def test_odd_files(tmp_path, tiny_lm, name, content, message):
    """Nested without end, and names that are no text."""
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"hyper: .*{name}.*{message}"):
        read_hyper(tmp_path / name, "memit", tiny_lm(), True)
