"""Fixtures: tiny random models of every declared architecture, a tokenizer, requests, and the golden folder."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from seqedit.editing.state import EditPlan
from seqedit.lm.architecture import architecture_of
from seqedit.lm.model import LanguageModel
from seqedit.lm.target_loss import TargetConfig
from seqedit.requests.request import EditRequest, parse_requests

sys.path.insert(0, str(Path(__file__).parent))  # tests/oracles.py

ROOT = Path(__file__).resolve().parents[1]
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
OWN_SIZES = {  # beside those that all others share
    # Every layer of Mistral has the window: a narrower one hides the subject from the target of a request
    # here, whose gradient is then zero but for round-off, which Adam's division makes as large as any other.
    "mistral": {"sliding_window": 24},
    "gemma2": {
        "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": 2.0,
        "query_pre_attn_scalar": 8,
    },
    "gemma3": {
        "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 8,
    },
    "gemma3_text": {
        "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 8,
    },
}
CONTEXTS = (
    ("{}",),
    ("The old town is quiet. {}", "I heard a song. {}", "Because it rained, we left. {}"),
)
SENTENCES = [
    "The mother tongue of Danielle Darrieux is French. The mother tongue of Thomas Joannes Stieltjes is Dutch.",
    "Zoë O'Brien plays the cello in Łódź, and André plays polo; the café's owner is a chemist.",
    "The favorite sport of Gamith Yudrashanr is basketball, and the birthplace of Huciol Davindrar is Elvinn.",
    "I heard a song. Because it rained, we left the old town. You are a teacher and the town is quiet.",
    "Autonomous University of Madrid, which is located in Spain, teaches architecture and New York law.",
]

torch.set_num_threads(1)
settings.register_profile("suite", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("suite")


def pytest_addoption(parser):
    parser.addoption(
        "--record-errors",
        metavar="FILE",
        help="write the errors against oracles and released numbers",
    )
    parser.addoption(
        "--record-architectures", metavar="FILE", help="write the tables of architectures"
    )


@pytest.fixture(scope="session")
def errors(request):
    """method → {"oracle": …, "released": …}, largest relative errors seen; written to the file of --record-errors."""
    seen: dict[str, dict[str, float]] = {}

    def record(method: str, against: str, error: float) -> float:
        own = seen.setdefault(method, {})
        own[against] = max(float(f"{error:.1e}"), own.get(against, 0.0))
        return error

    yield record
    if (file := request.config.getoption("--record-errors")) and seen:
        Path(file).write_text(json.dumps(seen, indent=1, sort_keys=True) + "\n")


@pytest.fixture(scope="session")
def architectures():
    """model type → column → what the tests found; `record(model_type, column=value, …)` puts it in."""
    found: dict[str, dict[str, str]] = {name: {} for name in MODEL_TYPES}

    def record(model_type: str, **facts: str) -> None:
        found[model_type] |= facts

    record.found = found
    return record


def _folder(default: Path) -> Path:
    if not default.is_dir():
        pytest.skip(f"{default.name} is not here")
    return default


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of released implementations' results; SEQEDIT_GOLDEN overrides where it is looked for."""
    return _folder(Path(os.environ.get("SEQEDIT_GOLDEN", ROOT.parent / "shared" / "golden")))


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    """Folder of real benchmark records; SEQEDIT_BENCHMARKS overrides where it is looked for."""
    return _folder(Path(os.environ.get("SEQEDIT_BENCHMARKS", ROOT.parent / "shared" / "data")))


def build_tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE with 100 merges learned from `SENTENCES`; with `bos`, id 0 opens every text."""
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


def build_lm(
    model_type: str = "gpt2",
    *,
    bos: bool = False,
    layers: int = 3,
    seed: int = 0,
    tied: bool = False,
) -> LanguageModel:
    """A random model of 3 layers, d_model 16, large enough weights and biases for every term to matter.

    `tied` concerns the families other than GPT-2, which is always tied, and GPT-J and GPT-NeoX, which never are.
    """
    tokenizer = build_tokenizer(bos=bos)
    sizes = {
        "vocab_size": len(tokenizer),
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    if model_type in ("gpt2", "gptj"):
        sizes |= {
            "n_embd": 16,
            "n_layer": layers,
            "n_head": 2,
            "n_positions": 64,
            "resid_pdrop": 0,
            "embd_pdrop": 0,
            "attn_pdrop": 0,
        } | ({"rotary_dim": 4} if model_type == "gptj" else {})
    else:
        sizes |= {
            "hidden_size": 16,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "intermediate_size": 40,
            "max_position_embeddings": 64,
        }
        if model_type != "gpt_neox":
            sizes |= {
                "num_key_value_heads": 1,
                "head_dim": 8,
                "tie_word_embeddings": tied,
                "pad_token_id": 0,
            }
            sizes |= OWN_SIZES.get(model_type, {})
    if model_type == "gemma3":
        sizes = {
            "text_config": sizes,
            "tie_word_embeddings": tied,
            "image_token_index": 1,
            "vision_config": dict.fromkeys(
                (
                    "hidden_size",
                    "intermediate_size",
                    "num_hidden_layers",
                    "num_attention_heads",
                    "image_size",
                    "patch_size",
                ),
                1,
            ),
        }
    torch.manual_seed(seed)
    model = (
        AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes))
        .eval()
        .requires_grad_(False)
    )
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases and norms, else 0 and 1
            parameter.add_(0.1 * torch.randn_like(parameter))
    return LanguageModel(model, tokenizer, architecture_of(model_type))


def build_plan(lm: LanguageModel, layers: tuple[int, ...] = (0, 1), **changes) -> EditPlan:
    """A plan with well-conditioned random moments (seed 1), three sampled-looking contexts and six short steps."""
    generator = torch.Generator().manual_seed(1)
    moments = {}
    for layer in range(lm.n_layers):
        width = max(lm.down_proj(layer).weight.shape)
        keys = torch.randn(width, 4 * width, generator=generator, dtype=torch.float64)
        moments[layer] = keys @ keys.T / (4 * width)
    target = TargetConfig(steps=6, lr=0.3, stop_loss=0.01)
    return EditPlan(
        **{"layers": layers, "moments": moments, "contexts": CONTEXTS, "target": target} | changes
    )


def bits(lm: LanguageModel) -> dict[str, torch.Tensor]:
    """A copy of every tensor of the model."""
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def changed(lm: LanguageModel, before: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors of which a bit has changed since `bits`."""
    return {
        name
        for name, tensor in lm.model.state_dict().items()
        if not torch.equal(tensor, before[name])
    }


def hook_count(lm: LanguageModel) -> int:
    """Hooks of any kind on any module of the model."""
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in lm.model.modules()
    )


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """‖found − expected‖ / ‖expected‖ in float64."""
    expected = expected.double()
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture
def tiny_lm():
    """Factory of tiny random models: `tiny_lm("llama", bos=True)`; a fresh one at each call."""
    return build_lm


@pytest.fixture
def exact_lm(monkeypatch):
    """`tiny_lm` in float64, attention included, which Gemma 2 would compute in float32."""
    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(
        torch.nn.functional, "softmax", lambda scores, dim, dtype=None: softmax(scores, dim)
    )

    def make(*args, **kwargs):
        lm = build_lm(*args, **kwargs)
        lm.model.double()
        return lm

    return make


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A saved tiny GPT-2 with its tokenizer, as `load_model` takes it."""
    folder = tmp_path_factory.mktemp("tiny")
    lm = build_lm("gpt2")
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def requests() -> list[EditRequest]:
    """Six requests: subjects at the start, in the middle and at the end; targets of one to many tokens."""
    return parse_requests(
        json.loads("""[
        {"case_id": 0, "prompt": "The mother tongue of {} is", "subject": "Danielle Darrieux", "target_new": "Dutch",
         "target_true": "French"},
        {"case_id": 1, "prompt": "{} plays", "subject": "Zoë O'Brien", "target_new": "polo in New York",
         "target_true": "the cello"},
        {"case_id": 2, "prompt": "The birthplace of {} is", "subject": "Huciol Davindrar", "target_new": "Spain",
         "target_true": "Elvinn"},
        {"case_id": "3b", "prompt": "A teacher in", "subject": "teacher", "target_new": "the café of the old town",
         "target_true": "Łódź"},
        {"case_id": 4, "prompt": "Here comes {}", "subject": "André", "target_new": ".",
         "target_true": "a chemist"},
        {"case_id": 5, "prompt": "The sport of {}, today, is", "subject": "Gamith", "target_new": "basketball",
         "target_true": "polo"}]""")
    )
