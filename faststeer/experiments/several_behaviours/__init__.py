"""Several behaviours steered alone, by one combined vector, and at several layers at once.

Section 4 of van der Weij et al. 2024 (arXiv 2403.05767), and three questions that it leaves open: a
coefficient per behaviour, the effect of one vector on the other behaviours, and generated text.
"""

from faststeer.experiments.several_behaviours.experiment import several_behaviours
from faststeer.experiments.several_behaviours.protocol import LAYERS_AT_ONCE, Protocol
from faststeer.experiments.several_behaviours.questions import BehaviourQuestions, read_behaviours

BEHAVIOURS = list(LAYERS_AT_ONCE)

__all__ = ["BEHAVIOURS", "BehaviourQuestions", "Protocol", "read_behaviours", "several_behaviours"]
