"""Broad skills: how far a vector takes a model away from code, or from Python, and what text pays.

Section 3 of van der Weij et al. 2024 (arXiv 2403.05767).
"""

from faststeer.experiments.broad.running import DEFAULT, PAPER, QUICK, Size, broad_skills
from faststeer.experiments.broad.sets import CODE, OTHERS, PYTHON_ONLY, TEXT, Sets, draw_sets
from faststeer.experiments.broad.sources import code_sources, text_sources

__all__ = [
    "CODE",
    "DEFAULT",
    "OTHERS",
    "PAPER",
    "PYTHON_ONLY",
    "QUICK",
    "TEXT",
    "Sets",
    "Size",
    "broad_skills",
    "code_sources",
    "draw_sets",
    "text_sources",
]
