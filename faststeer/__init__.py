"""Activation steering, fused into the residual stream of LLaMA models."""

from faststeer import data, diagnostics
from faststeer.activation_addition import ActAdd, act_add
from faststeer.baking import bake
from faststeer.conditions import when
from faststeer.extraction import activations, extract
from faststeer.gathering import capture
from faststeer.handle import Handle
from faststeer.installing import install, uninstall
from faststeer.markers import after
from faststeer.moments import Moments
from faststeer.ops import FaststeerWarning
from faststeer.patching import Patched, patch
from faststeer.templates import pairs
from faststeer.vectors import SteeringVector
from faststeer.version import VERSION as __version__

__all__ = [
    "ActAdd",
    "FaststeerWarning",
    "Handle",
    "Moments",
    "Patched",
    "SteeringVector",
    "__version__",
    "act_add",
    "activations",
    "after",
    "bake",
    "capture",
    "data",
    "diagnostics",
    "extract",
    "install",
    "pairs",
    "patch",
    "uninstall",
    "when",
]
