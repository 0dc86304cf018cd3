"""Tiny random models of every declared architecture, their tokenizer, and plans for them."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from seqedit.editing.sequential import EditPlan
from seqedit.lm.architecture import architecture_of
from seqedit.lm.model import LanguageModel
from seqedit.lm.target_loss import TargetConfig
from seqedit.lm.weights import read_weight

END = "<|endoftext|>"
MODEL_TYPES = (
    "gpt2",
    "gptj",
    "gpt_neox",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "phi",
    "phi3",
    "olmo2",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma3",
)
SLIDING = {  # a window of 8 tokens in two of three layers
    "sliding_window": 8,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 8,
}
OWN_SIZES: dict[str, dict[str, Any]] = {  # in addition to the sizes that all families share
    # Every layer of Mistral has the window. A narrower one would hide a subject from its target
    # here; the gradient would then be round-off alone, which Adam scales up like any other.
    "mistral": {"sliding_window": 24},
    "gemma2": SLIDING | {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
    "gemma3": SLIDING,
    "gemma3_text": SLIDING | {"final_logit_softcapping": 3.0},
}
CONTEXTS = (
    ("{}",),
    ("The old town is quiet. {}", "I heard a song. {}", "Because it rained, we left. {}"),
)
SENTENCES = [
    "The mother tongue of Danielle Darrieux is French. "
    "The mother tongue of Thomas Joannes Stieltjes is Dutch.",
    "Zoë O'Brien plays the cello in Łódź, and André plays polo; the café's owner is a chemist.",
    "The favorite sport of Gamith Yudrashanr is basketball, "
    "and the birthplace of Huciol Davindrar is Elvinn.",
    "I heard a song. Because it rained, we left the old town. "
    "You are a teacher and the town is quiet.",
    "Autonomous University of Madrid, which is located in Spain, "
    "teaches architecture and New York law.",
]


def build_tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE, 100 merges learned from `SENTENCES`; with `bos`, id 0 opens every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=357,
        special_tokens=[END],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{END} $A", special_tokens=[(END, 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        bos_token=END,
        pad_token=END,
        model_input_names=["input_ids", "attention_mask"],
    )


def tiny_sizes(model_type: str, vocabulary: int, layers: int, tied: bool) -> dict[str, Any]:
    """Arguments of a family's configuration: d_model 16, two heads, 64 positions."""
    shared = {
        "vocab_size": vocabulary,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    if model_type in ("gpt2", "gptj"):
        old = {"n_embd": 16, "n_layer": layers, "n_head": 2, "n_positions": 64}
        no_dropout = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
        return shared | old | no_dropout | ({"rotary_dim": 4} if model_type == "gptj" else {})
    sizes = shared | {
        "hidden_size": 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "max_position_embeddings": 64,
    }
    if model_type == "gpt_neox":
        return sizes
    sizes |= {"num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": tied}
    sizes |= {"pad_token_id": 0} | OWN_SIZES.get(model_type, {})
    return with_vision(sizes, tied) if model_type == "gemma3" else sizes


def with_vision(text: dict[str, Any], tied: bool) -> dict[str, Any]:
    """The configuration of a model of text and images, whose vision part is as small as can be."""
    vision = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
    )
    return {
        "text_config": text,
        "tie_word_embeddings": tied,
        "image_token_index": 1,
        "vision_config": dict.fromkeys(vision, 1),
    }


def build_lm(
    model_type: str = "gpt2",
    *,
    bos: bool = False,
    layers: int = 3,
    seed: int = 0,
    tied: bool = False,
) -> LanguageModel:
    """A random model of 3 layers, d_model 16, with weights and biases large enough to matter.

    `tied` has no effect on GPT-2, which is always tied, nor on GPT-J and GPT-NeoX, which never are.
    """
    tokenizer = build_tokenizer(bos=bos)
    sizes = tiny_sizes(model_type, len(tokenizer), layers, tied)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes))
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases and norms, which begin as 0 and 1
            parameter.add_(0.1 * torch.randn_like(parameter))
    return LanguageModel(model, tokenizer, architecture_of(model_type))


def build_plan(lm: LanguageModel, layers: tuple[int, ...] = (0, 1), **changes: Any) -> EditPlan:
    """A plan with well-conditioned random moments, four contexts and six short steps."""
    generator = torch.Generator().manual_seed(1)
    moments, gradients = {}, {}
    for layer in range(lm.n_layers):
        width = max(read_weight(lm, layer).shape)
        keys = torch.randn(width, 4 * width, generator=generator, dtype=torch.float64)
        moments[layer] = keys @ keys.T / (4 * width)
    for layer in range(lm.n_layers):
        height = min(read_weight(lm, layer).shape)
        g = torch.randn(height, 4 * height, generator=generator, dtype=torch.float64)
        gradients[layer] = g @ g.T / (4 * height)
    target = TargetConfig(steps=6, lr=0.3, stop_loss=0.01)
    arguments: dict[str, Any] = {
        "layers": layers,
        "moments": moments,
        "contexts": CONTEXTS,
        "target": target,
        "gradients": gradients,
    }
    return EditPlan(**arguments | changes)


def bits(lm: LanguageModel) -> dict[str, torch.Tensor]:
    """A copy of every tensor of the model."""
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def changed(lm: LanguageModel, before: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that have changed in any bit since `bits`."""
    now = lm.model.state_dict()
    return {name for name, tensor in now.items() if not torch.equal(tensor, before[name])}


def hook_count(lm: LanguageModel) -> int:
    """The number of hooks of any kind on any module of the model."""
    count = 0
    for module in lm.model.modules():
        count += len(module._forward_hooks) + len(module._forward_pre_hooks)
        count += len(module._backward_hooks)
    return count


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """‖found − expected‖ / ‖expected‖ in float64."""
    expected = expected.double()
    return ((found.double() - expected).norm() / expected.norm()).item()
