"""Reads the reduced released numbers of `data/golden`; `make_golden.py` writes them.

A file of tensors is compressed after each float32 has been split into four bytes, exponents first,
so that compression finds what can be compressed. Updates come as thin factors, second moments as
triangles.
"""

import lzma
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors import numpy as numpy_format
from safetensors.torch import save_file
from torch import Tensor

LAYERS, ROUNDS, EDITS = (1, 2, 3), (0, 1, 2), 5  # of the released runs; edits in a round
FACTORED = ("memit", "memit_seq", "nse", "alphaedit", "rome", "rect")
TARGETS = ("alphaedit.z", "nse.z")
RECT_SHARE = 0.4  # of the entries, which the released RECT keeps
INPUTS = ("requests.json", "contexts.json", "model", "hyper")
DOWN_PROJECTION = "transformer.h.{}.mlp.c_proj.weight"  # (d_ff, d_model)


def pack(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors compressed; a float32 as exponent, mantissa in three bytes, the sign last."""
    planes: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        values = np.ascontiguousarray(tensor.numpy())
        if values.dtype != np.float32:
            planes[name] = values
            continue
        bits = values.view(np.uint32)
        bits = (bits << np.uint32(1)) | (bits >> np.uint32(31))  # the sign moves to the end
        for i in range(4):
            planes[f"{i}|{name}"] = (bits >> np.uint32(24 - 8 * i)).astype(np.uint8)
    filters = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "pb": 0}
    path.write_bytes(lzma.compress(numpy_format.save(planes), filters=[filters]))


def unpack(path: Path) -> dict[str, Tensor]:
    """Return the tensors that `pack` wrote, bit for bit."""
    planes = numpy_format.load(lzma.decompress(path.read_bytes()))
    tensors = {}
    for key, values in planes.items():
        plane, _, name = key.rpartition("|")
        if not plane:
            tensors[name] = torch.from_numpy(values.copy())
        elif plane == "0":
            bits = np.zeros(values.shape, np.uint32)
            for i in range(4):
                bits |= planes[f"{i}|{name}"].astype(np.uint32) << np.uint32(24 - 8 * i)
            bits = (bits >> np.uint32(1)) | (bits << np.uint32(31))
            tensors[name] = torch.from_numpy(bits.view(np.float32))
    return tensors


def unpack_golden(folder: Path, out: Path) -> Path:
    """Write model/, hyper/, inputs, moments.safetensors and golden.safetensors into `out`.

    Raises:
        OSError: a file of `folder` is missing.
    """
    for name in INPUTS:
        copy = shutil.copytree if (folder / name).is_dir() else shutil.copyfile
        copy(folder / name, out / name)
    model = unpack(folder / "model.xz")
    save_file(model, out / "model" / "model.safetensors", {"format": "pt"})
    save_file(restore_moments(unpack(folder / "moments.xz")), out / "moments.safetensors")
    results = restore_results(unpack(folder / "results.xz"), edited_matrices(model))
    save_file(results, out / "golden.safetensors")
    return out


def edited_matrices(model: dict[str, Tensor]) -> dict[int, Tensor]:
    """W₀ of the edited layers, (d_model, d_ff), float64."""
    return {n: model[DOWN_PROJECTION.format(n)].T.contiguous().double() for n in LAYERS}


def restore_moments(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """C.<layer>, (d_ff, d_ff), float64, from triangles in float32 and what they leave out."""
    moments = {}
    for layer in LAYERS:
        triangle = packed[f"C.{layer}"]
        values = triangle.double()
        if f"rest.{layer}" in packed:
            spacing = torch.from_numpy(np.spacing(triangle.abs().numpy())).double()
            values += packed[f"rest.{layer}"].double() / 254 * spacing
        width = int((2 * len(triangle)) ** 0.5)
        C = torch.zeros(width, width, dtype=torch.float64)
        C[tuple(torch.triu_indices(width, width))] = values
        moments[f"C.{layer}"] = C + C.triu(1).T
    return moments


def restore_results(packed: dict[str, Tensor], W0: dict[int, Tensor]) -> dict[str, Tensor]:
    """Edited matrices in float64, targets and histories, under the names of the full folder."""
    results = {name: packed[name] for name in TARGETS}
    for layer in LAYERS:
        for method in FACTORED:
            W = W0[layer]
            for i in ROUNDS:
                key = f"{method}.{i}.{layer}"
                if f"{key}.A" not in packed:  # ROME edits one layer
                    continue
                update = packed[f"{key}.A"].double() @ packed[f"{key}.B"].double()
                if method == "rect":
                    update = update * rect_mask(W, update, packed[f"{key}.exceptions"])
                W = results[f"{method}.W.{i}.{layer}"] = W + update
        K = packed[f"alphaedit.K.{layer}"].double()
        results[f"alphaedit.past.{layer}"] = K @ K.T
        U, _, Vh = svd_of_total(results[f"memit.W.{ROUNDS[-1]}.{layer}"] - W0[layer])
        pruned = (U * packed[f"prune.values.{layer}"]) @ Vh
        results[f"prune.W.{layer}"] = W0[layer] + pruned
    return results


def rect_mask(W: Tensor, update: Tensor, exceptions: Tensor) -> Tensor:
    """Entries with the largest abs(Δ / (W + 1e-8)); at flat positions `exceptions`, the reverse."""
    ratio = (update / (W + 1e-8)).abs().flatten()
    smallest = ratio.kthvalue(int((1 - RECT_SHARE) * ratio.numel())).values
    mask = ratio >= smallest
    mask[exceptions.long()] ^= True
    return mask.reshape(update.shape)


def svd_of_total(update: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD of an update after the last round: as many components as there were edits."""
    U, values, Vh = torch.linalg.svd(update, full_matrices=False)
    n = EDITS * len(ROUNDS)
    return U[:, :n], values[:n], Vh[:n]
