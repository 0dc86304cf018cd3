"""The torments of commands that write: kills, twins, full disks, places that go, damaged files."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .commands import Command
from .processes import Process, die_at, start

Content = dict[str, bytes]


@dataclass
class Tally:
    """What was tried and survived, by kind of torment and of command.

    Attributes:
        tried: (torment, command) → how often.
        survived: the same, of those that did no harm.
        wounds: a line for each that did.
    """

    tried: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    survived: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    wounds: list[str] = field(default_factory=list)

    def note(self, torment: str, kind: str, problem: str, what: str = "") -> None:
        """Count one trial; an empty `problem` says that it was survived."""
        self.tried[torment, kind] += 1
        self.survived[torment, kind] += not problem
        if problem:
            self.wounds.append(f"{torment}, {kind}, {what}: {problem}")
            print("  " + self.wounds[-1], flush=True)

    def add(self, other: Tally) -> None:
        """Count what another one has counted."""
        for trial, tried in other.tried.items():
            self.tried[trial] += tried
            self.survived[trial] += other.survived[trial]
        self.wounds += other.wounds


class Victim:
    """A command with the result that it has when nothing happens.

    Attributes:
        command: the command.
        work: folder for its results, with a file of somebody else beside each.
        whole: what a call without any fault leaves.
        seconds: how long it took.
        steps: renames and flushes that it makes.
    """

    def __init__(self, command: Command, work: Path):
        self.command, self.work, self.count = command, work, 0
        out = self.place()
        started = time.monotonic()
        process = start(lambda: command.act(out))
        if code := process.wait():
            raise RuntimeError(f"{command.kind} {command.name}: {code}: {process.said()[-2000:]}")
        self.seconds = time.monotonic() - started
        self.whole = results(out)
        if not self.whole:
            raise RuntimeError(f"{command.kind} {command.name}: no result")

    def place(self) -> Path:
        """A new place for a result. What lies beside it is somebody else's."""
        self.count += 1
        folder = self.work / f"{self.command.kind}-{self.command.name}-{self.count}".replace(
            " ", "-"
        )
        (folder / "out.part").mkdir(parents=True)
        (folder / "out.part" / "mine").write_text("mine")
        return folder / "out"

    def start(self, out: Path, before: Callable[[], object] = lambda: None) -> Process:
        """Start the command on a place."""
        return start(lambda: self.command.act(out), before)

    def problem(self, out: Path) -> str:
        """What is wrong after the same command was called again, without a fault; or nothing."""
        process = self.start(out)
        code, said = process.wait(), process.said()
        if code and not (self.command.once and code == 1 and "exists already" in said):
            return f"the next call ends with {code}: {said[-600:]}"
        return self.difference(out)

    def difference(self, out: Path) -> str:
        """How a place differs from what it has to be; or nothing."""
        found = results(out)
        if found != self.whole:
            names = {n for n in found | self.whole if found.get(n) != self.whole.get(n)}
            return f"another result: {', '.join(sorted(names))}"
        if (out.parent / "out.part" / "mine").read_text() != "mine":
            return "a file of somebody else was changed"
        left = [str(p.name) for p in out.parent.rglob("*.seqedit-*")]
        return f"left behind: {', '.join(left)}" if left else ""

    def forget(self, out: Path) -> None:
        """Remove a place that was survived."""
        shutil.rmtree(out.parent)


RESULTS = {
    *("weights.safetensors", "outcomes.jsonl", "scores.jsonl", "model.safetensors"),
    *("adapter_model.safetensors", "mend.safetensors", "mend.json", "config.json", "memit.json"),
    *("index.json", "records.json", "calibration.json", "reversal.json", "facts.jsonl"),
    *("tasks.jsonl", "unrelated.jsonl", "calibration_unrelated.jsonl", "corpus.txt", "heldout.txt"),
}
"""Files that must be the same to the last bit; others say when and how fast."""


def results(out: Path) -> Content:
    """The files of a result that must be the same to the last bit."""
    if out.is_file():
        return {"": out.read_bytes()}
    return {
        str(path.relative_to(out)): _timeless(path)
        for path in sorted(out.rglob("*"))
        if path.name in RESULTS and "trials" not in path.parts and "runs" not in path.parts
    } | {"tables": str(sorted(p.name for p in out.rglob("*.parquet"))).encode()}


def _timeless(path: Path) -> bytes:
    """The content of a file, without the seconds that the page of `side-by-side` tells."""
    if path.name != "index.json":
        return path.read_bytes()
    content = json.loads(path.read_text())
    del content["about"]
    return json.dumps(content).encode()


def kill(victim: Victim, tally: Tally, times: int, rng: random.Random) -> None:
    """`kill -9`, twice in a row on a place: at a random moment, or at a rename or a flush."""
    for number in range(times // 2):
        out = victim.place()
        for _ in range(2):
            if number % 2:
                process = victim.start(out, die_at(rng.randint(1, 40)))
                process.wait()
            else:
                process = victim.start(out)
                time.sleep(rng.uniform(0, victim.seconds))
                process.kill()
        _judge("kill -9", victim, tally, out, "", count=2)


def twins(victim: Victim, tally: Tally, times: int, rng: random.Random) -> None:
    """Two processes on one place, begun at about the same time."""
    for _ in range(times):
        out = victim.place()
        first = victim.start(out)
        time.sleep(rng.uniform(0, victim.seconds / 2))
        second = victim.start(out)
        codes, problem = [first.wait(), second.wait()], ""
        for process, code in zip((first, second), codes, strict=True):
            if code and not (victim.command.once and "exists already" in process.said()):
                problem = f"one of two ends with {code}: {process.said()[-600:]}"
        _judge("two processes", victim, tally, out, problem or victim.difference(out))


def full_disk(victim: Victim, tally: Tally, times: int, rng: random.Random) -> None:
    """No file may become larger than so many bytes: one line, and all is well with room again."""
    for _ in range(times):
        out, limit = victim.place(), 10 ** rng.uniform(1, 5)

        def limited(limit: float = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))

        process = victim.start(out, limited)
        _judge("full disk", victim, tally, out, _bad_end(process))


def no_place(victim: Victim, tally: Tally, times: int, rng: random.Random) -> None:
    """A folder into which nobody can write."""
    for _ in range(times):
        process = victim.start(Path("/proc/self/nobody/out"))
        code, said = process.wait(), process.said()
        problem = "" if code == 1 else f"ends with {code}: {said[-600:]}"
        tally.note("read-only folder", victim.command.kind, problem or _lines(said), "")


def vanishing(victim: Victim, tally: Tally, times: int, rng: random.Random) -> None:
    """What was written is removed while the command is at work."""
    for _ in range(times):
        out = victim.place()
        process = victim.start(out)
        time.sleep(rng.uniform(victim.seconds / 3, victim.seconds))
        _remove(out)
        problem = _bad_end(process)
        if process.code:
            _remove(out)  # what it wrote between the two
        _judge("vanishing folder", victim, tally, out, problem)


def _remove(out: Path) -> None:
    if out.is_file():
        out.unlink()
    shutil.rmtree(out, ignore_errors=True)


def damage(victim: Victim, tally: Tally, times: int, rng: random.Random) -> None:
    """Every file of an interrupted command cut, emptied, with a bit turned, of others, or gone.

    The next call refuses in one line, and what it refused is still there; or it ends in the same
    result. It never ends in another one.
    """
    for step in (*(rng.randint(20, 40) for _ in range(times)), 10_000):
        out = victim.place()
        victim.start(out, die_at(step)).wait()
        for file in sorted(path for path in out.parent.rglob("*") if _may_suffer(path)):
            for way in WAYS:
                _damage_one(victim, tally, out, file, way, rng)
        victim.forget(out)


def _damage_one(
    victim: Victim, tally: Tally, out: Path, file: Path, way: str, rng: random.Random
) -> None:
    """Damage one file of a copy of a place, and call the command."""
    copy = victim.place()
    shutil.rmtree(copy.parent)
    shutil.copytree(out.parent, copy.parent)
    own = copy.parent / file.relative_to(out.parent)
    WAYS[way](own, rng)
    process = victim.start(copy)
    problem = _bad_end(process)
    if not problem and process.code == 0 and (wrong := victim.difference(copy)):
        problem = f"{way} {file.name}: {wrong}"
    tally.note(
        "damaged file", victim.command.kind, problem, f"{victim.command.name} {file.name} {way}"
    )
    victim.forget(copy)


def _turn_a_bit(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))


WAYS: dict[str, Callable[[Path, random.Random], object]] = {
    "cut": lambda path, rng: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path, rng: path.write_bytes(b""),
    "bit turned": _turn_a_bit,
    "of others": lambda path, rng: path.write_text('{"a": [1]}'),
    "gone": lambda path, rng: path.unlink(),
}


def _may_suffer(path: Path) -> bool:
    """Whether a file is one that is damaged: no lock, nothing half made, nothing of others."""
    inside = any(".seqedit-" in part or part == "out.part" for part in path.parts)
    return path.is_file() and not inside


def _bad_end(process: Process) -> str:
    """What is wrong with how a process ended that met a fault; or nothing."""
    code, said = process.wait(), process.said()
    if code not in (0, 1):
        return f"ends with {code}: {said[-600:]}"
    return _lines(said) if code else ""


def _lines(said: str) -> str:
    """What is wrong with what a command says of an error; or nothing."""
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if "Traceback" in said or len(errors) != 1:
        return f"says {said[-600:]!r}"
    return ""


def _judge(
    torment: str, victim: Victim, tally: Tally, out: Path, problem: str, count: int = 1
) -> None:
    """Call the command once more and count."""
    problem = problem or victim.problem(out)
    for _ in range(count):
        tally.note(torment, victim.command.kind, problem, victim.command.name)
    if not problem:
        victim.forget(out)


def each(tally: Tally) -> Iterator[tuple[str, str, int, int]]:
    """Torment, command, survived, tried; in the order in which they were tried."""
    for (torment, kind), tried in tally.tried.items():
        yield torment, kind, tally.survived[torment, kind], tried
