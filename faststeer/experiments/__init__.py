"""The experiments of van der Weij et al. 2024 (arXiv 2403.05767), and their results as a page."""

from faststeer.experiments.html_report import as_page, results_in
from faststeer.experiments.result import Figure, Result, Section, Table

__all__ = ["Figure", "Result", "Section", "Table", "as_page", "results_in"]
