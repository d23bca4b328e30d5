"""Activation steering, fused into the residual stream of LLaMA models."""

from faststeer import data, diagnostics
from faststeer.data.templates import pairs
from faststeer.extraction.act_add import ActAdd, act_add
from faststeer.extraction.capture import capture
from faststeer.extraction.extract import activations, extract
from faststeer.extraction.moments import Moments
from faststeer.patching.bake import bake
from faststeer.patching.install import install, uninstall
from faststeer.patching.patch import patch
from faststeer.patching.patched import Patched
from faststeer.steering.conditions import when
from faststeer.steering.handles import Handle
from faststeer.steering.markers import after
from faststeer.utils.version import VERSION as __version__
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.steering_vector import SteeringVector

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


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
