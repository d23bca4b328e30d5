"""Vectors from the sets: mean(text) - mean(skill), and the baselines."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.experiments.broad_skills.document_sets import TEXT, Sets
from faststeer.extraction.extract import activations
from faststeer.extraction.methods.means import MeanDifference, PermutedMeans
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.steering_vector import SteeringVector


class LastTokens:
    """The residual stream at the last token of each training document.

    Documents that several sets share are read once. ``v = mean(h(text)) - mean(h(skill))``, not
    normalised, as in van der Weij et al. 2024 (arXiv 2403.05767, section 3).
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        sets: Sets,
        layers: Sequence[int],
        *,
        site: str = "resid_post",
        max_length: int,
        batch_size: int,
        progress: bool,
    ) -> None:
        """Read ``[N, L, H]`` per source."""
        texts = [text for own in sets.drawn for text in own.train]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "[0-9]+ texts were longer", FaststeerWarning)
            states = activations(
                model,
                tokenizer,
                texts,
                layers=list(layers),
                site=site,
                batch_size=batch_size,
                max_length=max_length,
                progress=progress,
            )
        parts = torch.split(states, [len(own.train) for own in sets.drawn])
        self._by_source = dict(zip((own.source for own in sets.drawn), parts, strict=True))
        self._skills = sets.skills
        self.layers, self.site = list(layers), site

    def vector(
        self, name: str, skill: str, made_by: type[MeanDifference] = MeanDifference
    ) -> SteeringVector:
        """Return the vector from the skill to text at each layer, or a baseline."""
        statistics = self._statistics(skill, made_by)
        directions = {layer: own.direction() for layer, own in statistics.items()}
        return SteeringVector(name, directions, self.site)

    def permuted(self, name: str, skill: str) -> SteeringVector:
        """Return the paper's baseline: the coordinates of each mean permuted independently."""
        return self.vector(name, skill, PermutedMeans)

    def means(self, skill: str, layer: int) -> tuple[Tensor, Tensor]:
        """Return the means of text and of the skill, ``[H]`` each."""
        text, other = self._statistics(skill, MeanDifference)[layer].moments.mean
        return text, other

    def _statistics(
        self, skill: str, made_by: type[MeanDifference]
    ) -> Mapping[int, MeanDifference]:
        text, other = (self._states(name) for name in (TEXT, skill))
        sides = torch.tensor([0] * len(text) + [1] * len(other), dtype=torch.int32)
        states = torch.cat([text, other])
        statistics = {}
        for number, layer in enumerate(self.layers):
            statistics[layer] = made_by(states.shape[2], states.device)
            statistics[layer].update(states[:, number].contiguous(), sides)
        return statistics

    def _states(self, skill: str) -> Tensor:
        sources = self._skills[skill].items()
        return torch.cat([self._by_source[source][:count] for source, count in sources])
