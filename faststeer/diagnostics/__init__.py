"""Diagnostics of a steering vector before use: norms, lens, separability, calibration."""

from faststeer.diagnostics.calibration import Calibration, calibrate
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
    "Halves",
    "Inspection",
    "LayerFacts",
    "Lens",
    "TokenProjections",
    "as_html",
    "as_text",
    "auc",
    "calibrate",
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
