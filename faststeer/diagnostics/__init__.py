"""Diagnostics of a steering vector: norms, lens, separability, calibration, where it acts."""

from faststeer.diagnostics.calibration import Calibration, calibrate
from faststeer.diagnostics.compared_texts import compare
from faststeer.diagnostics.comparison import ComparedText, Comparison, NextToken
from faststeer.diagnostics.comparison_html import comparison_as_html, comparison_fragment
from faststeer.diagnostics.comparison_text import comparison_as_text
from faststeer.diagnostics.dose import relative_dose, residual_norms
from faststeer.diagnostics.highlight import as_html, as_text
from faststeer.diagnostics.inspection import Inspection, LayerFacts, inspect
from faststeer.diagnostics.lens import Lens, logit_lens
from faststeer.diagnostics.plots import write_plots
from faststeer.diagnostics.projections import TokenProjections, project_tokens
from faststeer.diagnostics.separability import pair_projections, separability
from faststeer.diagnostics.similarity import cosines, cosines_between
from faststeer.diagnostics.stability import Halves, halves
from faststeer.extraction.auc import auc
from faststeer.extraction.confounds import confounds

__all__ = [
    "Calibration",
    "ComparedText",
    "Comparison",
    "Halves",
    "Inspection",
    "LayerFacts",
    "Lens",
    "NextToken",
    "TokenProjections",
    "as_html",
    "as_text",
    "auc",
    "calibrate",
    "compare",
    "comparison_as_html",
    "comparison_as_text",
    "comparison_fragment",
    "confounds",
    "cosines",
    "cosines_between",
    "halves",
    "inspect",
    "logit_lens",
    "pair_projections",
    "project_tokens",
    "relative_dose",
    "residual_norms",
    "separability",
    "write_plots",
]
