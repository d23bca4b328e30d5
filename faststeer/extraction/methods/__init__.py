"""Extraction methods: statistics of one layer's activations that give a direction."""

from __future__ import annotations

from faststeer.extraction.methods.components import CentredComponent, UncentredComponent
from faststeer.extraction.methods.means import MeanCentring, MeanDifference, PermutedMeans
from faststeer.extraction.methods.probe import LogisticProbe
from faststeer.extraction.methods.statistic import Statistic

METHODS: dict[str, type[Statistic]] = {
    "mean_difference": MeanDifference,
    "mean_centring": MeanCentring,
    "pca_diff": CentredComponent,
    "pca_center": UncentredComponent,
    "logistic_probe": LogisticProbe,
    "permuted_means": PermutedMeans,
}

__all__ = ["METHODS", "Statistic"]
