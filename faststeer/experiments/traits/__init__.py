"""Several traits steered alone, by one combined vector, and at several layers at once.

The question of section 4 of van der Weij et al. 2024 (arXiv 2403.05767), asked of behaviours that a
small model has: how it continues a text, in place of how it answers questions.
"""

from faststeer.experiments.traits.experiment import several_traits
from faststeer.experiments.traits.protocol import Protocol

__all__ = ["Protocol", "several_traits"]
