"""Sequential model editing: closed-form editors on one solver, a resumable loop, and how to measure both."""

__version__ = "0.1.0"
