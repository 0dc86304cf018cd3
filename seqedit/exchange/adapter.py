"""Write edits as a LoRA adapter that `peft` can load."""

from pathlib import Path

from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ..base.tensors import save_tensors
from ..lm.model import LanguageModel
from .edited import new_folder
from .factors import Edits


def save_adapter(lm: LanguageModel, edits: Edits, base: str, out: Path) -> None:
    """Write a folder for `PeftModel.from_pretrained(base model, out)`.

    The loaded model computes Wx + B(Ax) with BA = Δ. Each matrix has its own rank and an alpha
    equal to it, so that LoRA's scale alpha/r is 1. A matrix that the edits did not change has no
    adapter.

    Args:
        lm: the model, edited or not; it gives the paths of the modules.
        edits: the edits.
        base: name of the unedited model, recorded for those who load the adapter by itself.
        out: the new folder.

    Raises:
        ValueError: `peft` is not installed, `out` exists, or no matrix was changed.

    Source:
        LoRA (2106.09685) §4.1.
    """
    try:
        from peft import LoraConfig, TaskType
    except ImportError as error:
        raise ValueError(
            "adapter: needs peft; pip install -c constraints.txt -e '.[peft]'"
        ) from error
    path = {layer: lm.architecture.down_proj.format(layer) for layer in edits.layers}
    factors = {
        path[layer]: edit.factors for layer, edit in edits.layers.items() if edit.factors.rank
    }
    if not factors:
        raise ValueError("adapter: the edits changed no matrix; there is nothing to write")
    ranks = {name: found.rank for name, found in factors.items()}
    module = lm.down_proj(min(edits.layers))
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=base,
        inference_mode=True,
        target_modules=sorted(ranks),
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=ranks,
        alpha_pattern=ranks,
        lora_dropout=0.0,
        fan_in_fan_out=isinstance(module, Conv1D),
    )
    tensors: dict[str, Tensor] = {}
    for name, found in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = found.right
        tensors[f"base_model.model.{name}.lora_B.weight"] = found.left
    with new_folder(out) as part:
        config.save_pretrained(str(part))
        save_tensors(part / "adapter_model.safetensors", tensors, {"format": "pt"})
