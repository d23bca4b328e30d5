"""Steering away from broad skills: the accuracy lost on code and on Python, and on text.

Section 3 of van der Weij et al. 2024 (arXiv 2403.05767).
"""

from faststeer.experiments.broad_skills.document_sets import (
    CODE,
    OTHERS,
    PYTHON_ONLY,
    TEXT,
    Sets,
    draw_sets,
)
from faststeer.experiments.broad_skills.experiment import DEFAULT, PAPER, QUICK, Size, broad_skills
from faststeer.experiments.broad_skills.sources import code_sources, text_sources

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
