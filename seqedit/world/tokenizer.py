"""The embedded model's tokenizer: byte-level BPE, which encodes any text, real benchmarks too."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .corpus import Corpus

END = "<|endoftext|>"


def train_tokenizer(
    corpus: Corpus, vocab_size: int = 2048, documents: int = 20_000, max_length: int = 256
) -> PreTrainedTokenizerFast:
    """Learn BPE merges on the first documents of a corpus.

    The token `END`, id 0, separates documents. No BOS token is added.

    Args:
        corpus: the text to learn from.
        vocab_size: tokens in all, the 256 bytes and `END` included.
        documents: number of documents to read.
        max_length: longest text that the model takes, in tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus.documents(-1, documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=max_length,
    )
