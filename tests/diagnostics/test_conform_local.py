"""The subjects that run in this process: faststeer's patch and plain hooks, on a tiny model."""

from __future__ import annotations

import re
import zlib
from typing import Any

import pytest
from local_models import HookedModel, PatchedModel, random_vectors
from tiny import make_tiny_model

from faststeer.diagnostics.conform import PROBES, Verdict, examine

VOCABULARY = 512


class WordTokenizer:
    """Tokenizer with a token per word, whose decoded tokens are read as themselves."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        words = re.findall(r"\s?\w+|\s?[^\w\s]", text)
        return {"input_ids": [self._id(own) for own in words]}

    def decode(self, ids: list[int]) -> str:
        return "".join(f" t{own}" for own in ids)

    def _id(self, word: str) -> int:
        own = re.fullmatch(r" t(\d+)", word)
        return int(own[1]) if own else zlib.crc32(word.encode()) % VOCABULARY


@pytest.mark.parametrize("kind", [PatchedModel, HookedModel])
def test_a_local_model_passes_every_probe_that_applies(kind: Any) -> None:
    model = make_tiny_model(layers=3, hidden=32, vocab_size=VOCABULARY)
    subject = kind(model, WordTokenizer(), random_vectors(32, 3))
    report = examine(subject, 2.0, tokens=4)
    without = {"chat", "streaming", "prompt cache"}
    without |= {"refusal"} if kind is HookedModel else set()
    verdicts = {own.probe: own.verdict for own in report.findings}
    assert {own for own in PROBES if verdicts[own] is Verdict.PASSED} == set(PROBES) - without
    assert {verdicts[own] for own in without} == {Verdict.NOT_APPLICABLE}
    assert report.noise < 1e-4
