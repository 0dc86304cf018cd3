"""Every command and sub-command: help, wrong values, missing files, and errors that are bugs."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from seqedit.cli.common import BUG, LARGEST_SEED, describe, make_app
from seqedit.cli.main import app


def commands(group, path=()):
    """Path and command of everything that can be called, e.g. ("world", "build")."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
            if not command.invoke_without_command:
                continue
        yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))
every_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def one_line(result, code: int) -> str:
    """The only line on stderr of a command that ended with `code` and no traceback."""
    assert result.exit_code == code and isinstance(result.exception, SystemExit), result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and "Traceback" not in result.output
    return line


# What a command is given so that it has to read, or find, what is not there; others have all their
# required options set to files of an empty folder.
WRONG_INPUT = {
    ("abilities",): ["--model", "{}/none"],
    ("bench",): ["nosuch"],
    ("methods",): None,  # takes no input
    ("model", "list"): None,
    ("moments",): [
        *("--model", "{}/none", "--corpus", "{}/none.txt"),
        *("--layers", "1", "--out", "{}/out.safetensors"),
    ],
    ("moments", "budgets"): ["--model", "embedded", "--corpus", "{}/none.txt"],
    ("moments", "merge"): ["{}/none", "{}/none", "--out", "{}/out.safetensors"],
    ("depths",): ["--model", "{}/none"],
    ("restrain",): [
        *("--model", "embedded", "--edited", "{}/none", "--requests", "world", "--mix", "0.5"),
    ],
    ("dtypes",): ["--model", "{}/none"],
    ("plan",): ["--model", "gpt2-xl", "--edits", "{}/none.json"],
    ("preflight",): ["--out", "{}/file/folder"],  # `file` is no folder
    ("presets",): ["nosuch"],
    ("side-by-side",): ["memit", "--model", "embedded", "--requests", "{}/none.json"],
    ("streams",): None,
    ("study",): ["nosuch"],
    ("tune",): ["nosuch"],
    ("world", "build"): ["--out", "{}/file/folder"],  # `file` is no folder
    ("world", "subjects"): ["--out", "{}/file/folder"],
    ("world", "check"): ["--model", "{}/none"],
    ("world", "train"): ["--out", "{}/file/folder", "--device", "cpu"],
    ("world", "train-editor"): ["nosuch"],
}


def wrong_input(path, folder) -> list[str]:
    """Words of the command line, after the command's name."""
    if path in WRONG_INPUT:
        return [word.format(folder) for word in WRONG_INPUT[path]]
    words: list[str] = []
    for parameter in COMMANDS[path].params:
        if parameter.required:
            value = "1" if is_number(path, parameter) else f"{folder}/none/{parameter.name}"
            words += (
                [value] if parameter.param_type_name == "argument" else [parameter.opts[0], value]
            )
    return words


def shown_type(path, parameter) -> str:
    """What help shows of a parameter's type, e.g. "<int range>" or "<float32|float16>"."""
    return parameter.display_type(typer.Context(COMMANDS[path]))


def is_number(path, parameter) -> bool:
    return shown_type(path, parameter).startswith(("<int", "<float>", "<float range"))


@every_command
def test_help(path):
    """It appears, and shows an example that begins with the command's own name."""
    result = call(*path, "--help")
    assert result.exit_code == 0 and "Usage:" in result.stdout
    assert f"Example: seqedit {' '.join(path)}" in " ".join(result.stdout.split())


@every_command
def test_wrong_command_line(path):
    """A wrong option, or a wrong word for a number or a choice: exit code 2, and which it was."""
    result = call(*path, "--colour", "red")
    assert result.exit_code == 2 and "--colour" in result.stderr
    for parameter in COMMANDS[path].params:
        choice = "|" in shown_type(path, parameter)
        if parameter.param_type_name == "option" and (is_number(path, parameter) or choice):
            result = call(*path, parameter.opts[0], "many")
            assert result.exit_code == 2 and "Traceback" not in result.output, parameter.name
            assert parameter.opts[0] in result.stderr, result.stderr


@pytest.mark.parametrize(
    "path", [path for path in COMMANDS if WRONG_INPUT.get(path, []) is not None], ids=" ".join
)
def test_wrong_input(path, tmp_path):
    """A file or a name that is not there: exit code 1, one line that names it, nothing written."""
    (tmp_path / "file").write_text("")
    line = one_line(call(*path, *wrong_input(path, tmp_path)), 1)
    assert str(tmp_path) in line or "nosuch" in line
    assert {p.name for p in tmp_path.iterdir()} == {"file"}


@pytest.mark.parametrize(
    "words",
    [
        ["world", "build", "--seed", "-1"],
        ["world", "build", "--seed", str(LARGEST_SEED + 1)],
        ["world", "build", "--seed", "zero"],
        ["world", "train", "--seed", "-1"],
        ["world", "train", "--steps", "0"],
        ["world", "train", "--steps", "1.5"],
        ["world", "train", "--device", "warp"],
        ["world", "train", "--device", "spread"],
        ["edit", "--seed", "-1"],
        ["score", "--seed", "9" * 40],
        ["moments", "--tokens", "0"],
        ["study", "--jobs", "0"],
    ],
    ids=" ".join,
)
def test_values_out_of_range(words):
    result = call(*words)
    assert result.exit_code == 2 and words[-2] in result.stderr and "Traceback" not in result.output


HOSTILE = ("-1", "1" + "0" * 400, "nan", "inf", "1e400", "", "0x10")


@every_command
def test_hostile_numbers(path, tmp_path):
    """Whatever is given for a number, beside input that is not there: 1 or 2, in no traceback."""
    (tmp_path / "file").write_text("")
    words = wrong_input(path, tmp_path) if WRONG_INPUT.get(path, []) is not None else []
    for parameter in COMMANDS[path].params:
        if parameter.param_type_name == "option" and is_number(path, parameter):
            for value in HOSTILE:
                result = call(*path, *words, parameter.opts[0], value)
                assert result.exit_code in (1, 2), (parameter.name, value, result.output)
                assert isinstance(result.exception, SystemExit)
                assert "Traceback" not in result.output and "bug in" not in result.output


@pytest.mark.parametrize(
    "path", [path for path in COMMANDS if WRONG_INPUT.get(path, []) is not None], ids=" ".join
)
def test_hostile_places(path, tmp_path):
    """A folder for a file, a file for a folder, a name that is too long, a device that is none."""
    (tmp_path / "file").write_text("")
    words = wrong_input(path, tmp_path)
    for parameter in COMMANDS[path].params:
        if parameter.name in ("out", "device"):
            places = [tmp_path / "file" / "x", tmp_path / ("x" * 300)]
            if path != ("world", "build"):  # which builds into a folder that is there
                places += [tmp_path, ""]
            for value in ("warp", "meta:9") if parameter.name == "device" else places:
                result = call(*path, *words, parameter.opts[0], value)
                assert result.exit_code in (1, 2), (parameter.name, value, result.output)
                assert "Traceback" not in result.output and "bug in" not in result.output
    assert {p.name for p in tmp_path.iterdir()} <= {"file", ".file.seqedit-lock"}


def test_moments_names_what_is_missing():
    for words, option in (([], "--model"), (["--model", "x"], "--layers")):
        result = call("moments", *words)
        assert result.exit_code == 2 and f"{option} is missing" in result.stderr


def failing(error: BaseException) -> typer.Typer:
    """An app like ours with a command, in a group inside it, that ends in `error`."""
    outer, inner = make_app(), make_app()

    @outer.callback()
    def options(debug: bool = False) -> None:
        pass

    @inner.command()
    def work() -> None:
        raise error

    @inner.command()
    def other() -> None:
        pass

    outer.add_typer(inner, name="inner")
    return outer


def test_a_bug_is_one_line_and_debug_shows_it(monkeypatch):
    """An exception that nobody expected: exit code 70, what it is, how to see its traceback."""
    broken = failing(RuntimeError("shapes cannot be multiplied"))
    line = one_line(CliRunner().invoke(broken, ["inner", "work"]), BUG)
    assert "bug in seqedit: RuntimeError: shapes cannot be multiplied" in line
    assert "--debug" in line and "SEQEDIT_DEBUG=1" in line
    shown = CliRunner().invoke(broken, ["--debug", "inner", "work"])
    assert shown.exit_code == BUG and "Traceback" in shown.stderr and "in work" in shown.stderr
    assert shown.stderr.strip().splitlines()[-1] == line


def test_debug_of_wrong_input(monkeypatch):
    """The option or the environment's variable shows the traceback; the exit code stays."""
    for words, variables in ((["--debug"], {}), ([], {"SEQEDIT_DEBUG": "1"})):
        result = CliRunner().invoke(app, [*words, "tune", "nosuch"], env=variables)
        assert result.exit_code == 1 and "Traceback" in result.stderr
    assert "Traceback" not in call("tune", "nosuch").output


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("layers:\n none given"), 1, "error: layers: none given"),
        (
            FileNotFoundError(2, "No such file or directory", "a.json"),
            1,
            "error: a.json: No such file",
        ),
        (MemoryError(), 1, "not enough memory"),
        (KeyError("x"), BUG, "bug in seqedit: KeyError"),
    ],
)
def test_description_of_errors(error, code, words):
    line, found = describe(error)
    assert found == code and words in line and "\n" not in line


def test_interruption():
    """Ctrl-C ends with the shell's exit code for it and one word, not a traceback."""
    result = CliRunner().invoke(failing(KeyboardInterrupt()), ["inner", "work"])
    assert result.exit_code == 130 and result.stderr == "interrupted\n"


def test_an_exit_of_the_command_stays():
    result = CliRunner().invoke(failing(typer.Exit(5)), ["inner", "work"])
    assert result.exit_code == 5 and result.output == ""


def test_help_imports_no_torch():
    """Help appears at once: nothing that takes long is imported for it."""
    code = (
        "import sys; from seqedit.cli.main import app; app(['--help'], standalone_mode=False);"
        "slow = ('torch', 'transformers', 'pandas', 'numpy');"
        "print([name for name in slow if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
