"""The command line, as `python -m seqedit`."""

from .cli.main import app

if __name__ == "__main__":
    app()
