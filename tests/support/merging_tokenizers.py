"""Tokenizers that merge the end of a marker with what follows it."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END = "</think>"
TEXTS = [
    f"I think.\n{END}\n\nYes, it is.",
    f"No {END} again:{END}so",
    f"{END}at once",
    f"all of it is thought {END}",
    f"日本語{END}語 é",
]


def byte_level() -> PreTrainedTokenizerFast:
    """Return a tokenizer that merges a marker's last character with the next, like Qwen's."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(["</", "think", ">\n\n", ">so", ">at", " it"] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=trained, pad_token="<pad>", bos_token="<s>")


def sentencepiece() -> PreTrainedTokenizerFast:
    """Return a tokenizer with spaces in tokens, the first dropped, and a byte fallback."""
    every = [f"<0x{n:02X}>" for n in range(256)]
    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    strip = [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    trained.decoder = decoders.Sequence([decoders.Replace("▁", " "), *strip])
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "<pad>", "<s>", *every], show_progress=False
    )
    trained.train_from_iterator([*TEXTS[:4], " >so >at k> ▁</think> </thi nk>\n"] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=trained, pad_token="<pad>", bos_token="<s>")


TOKENIZERS = {"byte-level": byte_level, "sentencepiece": sentencepiece}
