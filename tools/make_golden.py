"""Reduces a folder of released numbers to what the tests compare with: writes `data/golden`.

    python tools/make_golden.py SOURCE

SOURCE holds what the released code of AlphaEdit computed, on a CPU in float32, from a small model
of our own: `golden.safetensors` with edited matrices, targets and histories, and the inputs beside
it. The released code has no licence; nothing of it is stored, only figures that it computed from
our inputs.

How the figures become small:

* The weights of the model are kept bit for bit; of the position embeddings, those that a request
  reaches.
* Second moments C are symmetric: the upper triangle is kept, in float32, to which the released
  code rounds them. Only its ROME inverts them in float64; the layer that it edits gets eight bits
  more.
* An update is a product of two thin factors, with as many columns as there were edits. They are
  kept with 20 significant bits, or with 17 where the released code's own round-off is far larger.
* RECT keeps the entries of such a product that are largest in proportion to those of the matrix.
  The product is found from them (`complete`). Which they are follows by the same rule; exceptions
  are listed.
* PRUNE's update has the singular vectors of MEMIT's; its singular values are kept.
* A history K Kᵀ is kept as K.
"""

import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from released import (
    EDITS,
    FACTORED,
    LAYERS,
    ROUNDS,
    TARGETS,
    edited_matrices,
    pack,
    rect_mask,
    svd_of_total,
    unpack_golden,
)
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
ROME_LAYER = 2
FEWER_BITS = {"alphaedit": 17, "rome": 17}  # float32 left errors of 9e-6 and 5e-4 in these
BITS = 20
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
POSITIONS = "transformer.wpe.weight"


def rounded(values: Tensor, bits: int) -> Tensor:
    """Round to so many significant bits, in float32; the zeros after them compress away."""
    mantissa, exponent = torch.frexp(values.double())
    return torch.ldexp(torch.round(mantissa * 2**bits) / 2**bits, exponent).float()


def factors(update: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """A, (d_model, edits), and B, (edits, d_ff): AB is the best approximation of the update."""
    U, values, Vh = torch.linalg.svd(update, full_matrices=False)
    return rounded(U[:, :EDITS] * values[:EDITS], bits), rounded(Vh[:EDITS], bits)


def complete(update: Tensor, sweeps: int = 300) -> Tensor:
    """The low-rank matrix that agrees with `update` where that is not 0, by alternating fits."""
    known = (update != 0).double()
    A = torch.linalg.svd(update, full_matrices=False)[0][:, :EDITS]
    for _ in range(sweeps):
        B = _least_squares(A, update, known).T
        A = _least_squares(B.T, update.T, known.T)
    return A @ B


def _least_squares(A: Tensor, Y: Tensor, known: Tensor) -> Tensor:
    """For each column y of Y the x with Ax nearest to y where y is known, (columns, edits)."""
    outer = (A[:, :, None] * A[:, None, :]).flatten(1)  # (rows, edits²)
    systems = (known.T @ outer).reshape(-1, A.shape[1], A.shape[1])
    return torch.linalg.solve(systems, (known * Y).T @ A)


def reduce_moments(source: Path) -> dict[str, Tensor]:
    """Upper triangles of C in float32; for ROME's layer the rest, in 1/254 of float32's spacing."""
    full, packed = load_file(source / "moments.safetensors"), {}
    for layer in LAYERS:
        C = full[f"C.{layer}"]
        triangle = C[tuple(torch.triu_indices(*C.shape))]
        packed[f"C.{layer}"] = triangle.float()
        if layer == ROME_LAYER:
            spacing = torch.from_numpy(np.spacing(triangle.float().abs().numpy())).double()
            rest = (triangle - triangle.float()) / spacing  # within ± 1/2
            packed[f"rest.{layer}"] = torch.round(254 * rest).to(torch.int8)
    return packed


def reduce_results(released: dict[str, Tensor], W0: dict[int, Tensor]) -> dict[str, Tensor]:
    """Factors of every update, targets, histories, and PRUNE's singular values."""
    packed = {name: released[name] for name in TARGETS}
    for layer in LAYERS:
        for method in FACTORED:
            W = W0[layer]
            for i in ROUNDS:
                if (after := released.get(f"{method}.W.{i}.{layer}")) is None:
                    continue  # ROME edits one layer
                packed |= _reduce_update(f"{method}.{i}.{layer}", after.double() - W, W)
                W = after.double()
        values, vectors = torch.linalg.eigh(released[f"alphaedit.past.{layer}"].double())
        n = EDITS * len(ROUNDS)
        packed[f"alphaedit.K.{layer}"] = rounded(vectors[:, -n:] * values[-n:].sqrt(), 17)
        total = released[f"memit.W.{ROUNDS[-1]}.{layer}"].double() - W0[layer]
        U, _, Vh = svd_of_total(total)
        pruned = released[f"prune.W.{layer}"].double() - W0[layer]
        packed[f"prune.values.{layer}"] = torch.diag(U.T @ pruned @ Vh.T)
    return packed


def _reduce_update(key: str, update: Tensor, W: Tensor) -> dict[str, Tensor]:
    """The factors of one round's update to W; of RECT's as it was before entries were zeroed."""
    method = key.split(".")[0]
    whole = complete(update) if method == "rect" else update
    A, B = factors(whole, FEWER_BITS.get(method, BITS))
    packed = {f"{key}.A": A, f"{key}.B": B}
    if method == "rect":
        mask = rect_mask(W, A.double() @ B.double(), torch.empty(0))
        wrong = (mask != (update != 0)).flatten().nonzero().flatten()
        packed[f"{key}.exceptions"] = wrong.int()
    return packed


def positions_needed(source: Path) -> int:
    """Tokens of the longest text of a request, rounded up to a multiple of eight."""
    tokenizer = Tokenizer.from_file(str(source / "model" / "tokenizer.json"))
    groups = json.loads((source / "contexts.json").read_text(encoding="utf-8"))
    rounds = json.loads((source / "requests.json").read_text(encoding="utf-8"))["rounds"]
    longest = 0
    for request in (request for batch in rounds for request in batch):
        prompt = request["prompt"].format(request["subject"])
        for template in (template for group in groups for template in group):
            text = f"{template.format(prompt)} {request['target_new']}"
            longest = max(longest, len(tokenizer.encode(text).ids))
    return 8 * -(-longest // 8)


def make(source: Path, out: Path = GOLDEN) -> None:
    """Write the reduced folder.

    Raises:
        OSError: a file of `source` cannot be read.
    """
    hyper = [f"hyper/{path.name}" for path in sorted((source / "hyper").glob("*.json"))]
    for folder in (out / "model", out / "hyper"):
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("requests.json", "contexts.json", *hyper, *(f"model/{n}" for n in TOKENIZER)):
        shutil.copyfile(source / name, out / name)
    model = load_file(source / "model" / "model.safetensors")
    config = json.loads((source / "model" / "config.json").read_text(encoding="utf-8"))
    config["n_positions"] = positions_needed(source)
    (out / "model" / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    pack(out / "model.xz", model | {POSITIONS: model[POSITIONS][: config["n_positions"]]})
    pack(out / "moments.xz", reduce_moments(source))
    released = load_file(source / "golden.safetensors")
    pack(out / "results.xz", reduce_results(released, edited_matrices(model)))


def losses(source: Path, unpacked: Path) -> dict[str, float]:
    """The largest relative error of the reduction: in each method's updates, in other figures."""
    W0 = edited_matrices(load_file(source / "model" / "model.safetensors"))
    found: dict[str, float] = {}
    for file in ("golden.safetensors", "moments.safetensors"):
        full, kept = load_file(source / file), load_file(unpacked / file)
        for name, value in kept.items():
            base = W0[int(name[-1])] if ".W." in name else 0
            exact = full[name].double() - base
            error = ((value.double() - base - exact).norm() / exact.norm()).item()
            group = name.split(".W.")[0]
            found[group] = max(error, found.get(group, 0.0))
    return found


def main() -> None:
    """Make the folder and print what it takes, in bytes and in accuracy."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    source = Path(sys.argv[1])
    make(source)
    sizes = {path: path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()}
    for path, size in sorted(sizes.items()):
        print(f"{size:>9,}  {path.relative_to(GOLDEN)}")
    print(f"{sum(sizes.values()):>9,}  in all\n")
    with TemporaryDirectory() as folder:
        for name, error in losses(source, unpack_golden(GOLDEN, Path(folder))).items():
            print(f"{name:<18}{error:.1e}")


if __name__ == "__main__":
    main()
