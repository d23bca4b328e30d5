"""The experiments of van der Weij et al. 2024 (arXiv 2403.05767), and what they found as a page."""

from faststeer.experiments.outcome import Figure, Outcome, Section, Table
from faststeer.experiments.page import as_page, outcomes_in

__all__ = ["Figure", "Outcome", "Section", "Table", "as_page", "outcomes_in"]
