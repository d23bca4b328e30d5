"""Which traits a text shows, by classifiers of what the unsteered model reads in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.data.encoding import token_ids
from faststeer.data.trait_files import Trait
from faststeer.extraction.extract import activations

_READ = slice(1, None)  # the first token has few facts about the text, and often a huge norm
_FEWEST = 3  # tokens of a text that can be judged


@dataclass(frozen=True)
class _Line:
    """A linear classifier of one trait: its normal ``[H]``, its offset, and its accuracy."""

    normal: Tensor
    offset: float
    accuracy: float


class TraitJudge:
    """A logistic classifier per trait, of the mean of a middle layer's residual stream.

    Trained on the trait's labelled sentences, which no vector is made from. The model reads the
    texts unsteered, so that steering counts only by the text that it produced.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, layer: int, center: Tensor, batch_size: int
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._layer, self._center, self._batch_size = layer, center, batch_size
        self._lines: dict[str, _Line] = {}

    @classmethod
    def trained(
        cls, model: nn.Module, tokenizer: Any, traits: Sequence[Trait], layer: int, batch_size: int
    ) -> TraitJudge:
        """Train a classifier per trait; its accuracy is that on the sentences of the pairs.

        The model has to be unsteered. `layer` is the one that is read.
        """
        from sklearn.linear_model import LogisticRegression

        judge = cls(model, tokenizer, layer, torch.zeros(()), batch_size)
        sentences = [text for trait in traits for side in trait.sentences for text in side]
        read = judge._read(sentences)
        judge._center = read.mean(0)
        read = read - judge._center
        scale = read.square().mean().sqrt()
        first = 0
        for trait in traits:
            positive, negative = map(len, trait.sentences)
            own = read[first : first + positive + negative] / scale
            first += positive + negative
            labels = torch.arange(positive + negative) < positive
            classifier = LogisticRegression(max_iter=1000)
            classifier.fit(own.numpy(), labels.numpy())
            normal = torch.from_numpy(classifier.coef_[0]) / scale
            offset = float(classifier.intercept_[0])
            known = judge._read([text for pair in trait.pairs for text in pair]) - judge._center
            right = ((known @ normal + offset) > 0).view(-1, 2) == torch.tensor([True, False])
            judge._lines[trait.name] = _Line(normal, offset, float(right.double().mean()))
        return judge

    @property
    def accuracy(self) -> dict[str, float]:
        """The share of the pairs' sentences that each trait's classifier gets right."""
        return {name: line.accuracy for name, line in self._lines.items()}

    def probabilities(self, texts: Sequence[str]) -> dict[str, list[float | None]]:
        """Return how likely each text shows each trait; None for texts of under three tokens."""
        there = [
            number
            for number, text in enumerate(texts)
            if len(token_ids(self._tokenizer, text)[0]) >= _FEWEST
        ]
        found: dict[str, list[float | None]] = {name: [None] * len(texts) for name in self._lines}
        if there:
            read = self._read([texts[number] for number in there]) - self._center
            for name, line in self._lines.items():
                values = (read @ line.normal + line.offset).sigmoid().tolist()
                for number, value in zip(there, values, strict=True):
                    found[name][number] = value
        return found

    def _read(self, texts: Sequence[str]) -> Tensor:
        """Return the mean of each text's tokens but the first, ``[N, H]`` float64."""
        read = activations(
            self._model,
            self._tokenizer,
            texts,
            layers=self._layer,
            read_token=_READ,
            batch_size=self._batch_size,
            progress=False,
        )
        return read[:, 0].double()


def require_judge() -> None:
    """Raise ValueError, before any long work, where scikit-learn is missing."""
    if find_spec("sklearn") is None:
        raise ValueError(
            "generated texts are judged with scikit-learn: pip install 'faststeer[experiments]'"
        )
