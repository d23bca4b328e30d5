"""Texts are batched by whether padding changes a decoder's results, which is measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from read_texts import CLOSE, TEXTS, read
from residual_streams import row_error
from tiny import ByteTokenizer
from unusual_decoders import MixesAll, strange

from faststeer.models.text_calls import TextCalls, decoder_of

pytestmark = pytest.mark.filterwarnings("ignore:.*is not of a family that faststeer fuses")


@pytest.fixture
def mixing() -> MixesAll:
    torch.manual_seed(0)
    return MixesAll().eval()


def test_if_padding_changes_results_only_texts_of_equal_length_share_a_forward(
    mixing: MixesAll, byte_tokenizer: ByteTokenizer
) -> None:
    texts = ["ab", "a", "xy", "longer text", "b"]
    alone = torch.cat([read(mixing, byte_tokenizer, [text]) for text in texts])
    for read_token in (-1, "all"):
        alone = torch.cat([read(mixing, byte_tokenizer, [t], read_token=read_token) for t in texts])
        mixing.lengths.clear()
        found = read(mixing, byte_tokenizer, texts, read_token=read_token)
        assert row_error(found, alone) < CLOSE
        # One text with and without padding, for the measurement; then lengths 2, 3 and 12.
        assert mixing.lengths[-3:] == [(2,), (3,), (12,)]
        assert sum(len(lengths) > 1 for lengths in mixing.lengths) == 1


def test_the_effect_of_padding_is_measured_once_and_never_for_known_families(
    tiny_model: Any, byte_tokenizer: ByteTokenizer
) -> None:
    texts = [f"{'x' * (n % 7)}{n}" for n in range(40)]
    for model, more in ((tiny_model, 0), (strange("GPT2LMHeadModel"), 4)):
        calls: list[int] = []
        decoder = decoder_of(model)
        decoder.register_forward_pre_hook(lambda *given, calls=calls: calls.append(1))
        read(model, byte_tokenizer, texts, batch_size=4)
        # Number of layer calls: texts of two lengths separately, and both with padding.
        assert len(calls) == 10 + more


@pytest.mark.parametrize(
    ("dtype", "padding"), [(torch.float32, True), (torch.bfloat16, True), (torch.float16, True)]
)
def test_rounding_is_not_mistaken_for_an_effect_of_padding(
    dtype: torch.dtype, padding: bool, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange("GPT2LMHeadModel").to(dtype)
    calls = TextCalls(model)
    calls.groups([byte_tokenizer(text)["input_ids"] for text in TEXTS], None)
    assert calls.pads is padding
