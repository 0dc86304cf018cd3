"""Processes that are forked from this one, in which everything is imported already."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

LIMIT = 240
"""Seconds after which a process counts as hanging."""


@dataclass
class Process:
    """A forked process, and the pipe into which it prints: a full disk must not silence it."""

    pid: int
    pipe: int
    code: int | None = None
    text: bytes = b""

    def wait(self, limit: float = LIMIT) -> int:
        """Its exit code, negative for a signal; -9 also where it hung and was killed here."""
        end = time.monotonic() + limit
        while self.code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.said()
            if done:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
            else:
                time.sleep(0.005)
        return self.code

    def __del__(self) -> None:
        os.close(self.pipe)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def said(self) -> str:
        """What it has printed."""
        with suppress(BlockingIOError):
            while block := os.read(self.pipe, 1 << 16):
                self.text += block
        return self.text.decode(errors="replace")


def start(act: Callable[[], object], before: Callable[[], object] = lambda: None) -> Process:
    """Fork a process that does `act` and ends as a command does.

    Args:
        act: what it does.
        before: what it does first, such as to limit itself.
    """
    pipe, number = os.pipe()
    pid = os.fork()
    if pid:
        os.close(number)
        os.set_blocking(pipe, False)
        return Process(pid, pipe)
    code = 70
    try:
        os.dup2(number, 1)
        os.dup2(number, 2)
        sys.stdout, sys.stderr = (os.fdopen(i, "w", buffering=1, closefd=False) for i in (1, 2))
        before()
        act()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except (ValueError, OSError) as error:  # what the command line says in one line
        print(f"error: {error}")
        code = 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def die_at(step: int) -> Callable[[], None]:
    """What makes a process kill itself at its n-th rename or flush, every other time after it."""

    def arm() -> None:
        count = [0]
        for name in ("replace", "fsync"):
            real = getattr(os, name)

            def do(*args: object, real: Callable = real) -> object:
                count[0] += 1
                if count[0] == step and step % 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = real(*args)
                if count[0] == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            setattr(os, name, do)

    return arm
