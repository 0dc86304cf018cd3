"""`python -m seqedit`: the command line."""

from .cli.main import app

app()
