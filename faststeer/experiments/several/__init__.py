"""Several behaviours steered alone, by one combined vector, and at several layers at once.

Section 4 of van der Weij et al. 2024 (arXiv 2403.05767), and what it leaves open: a coefficient a
behaviour, what steering one does to the others, and what the model says freely.
"""

from faststeer.experiments.several.asked import Asked, read_behaviours
from faststeer.experiments.several.experiment import several_behaviours
from faststeer.experiments.several.protocol import LAYERS_AT_ONCE, Protocol

BEHAVIOURS = list(LAYERS_AT_ONCE)

__all__ = ["BEHAVIOURS", "Asked", "Protocol", "read_behaviours", "several_behaviours"]
