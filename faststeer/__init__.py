"""Activation steering, fused into the residual stream of LLaMA models."""

from faststeer import data, diagnostics
from faststeer.data.templates import pairs
from faststeer.diagnostics.tuning.tune import tune
from faststeer.extraction.act_add import ActAdd, act_add
from faststeer.extraction.capture import capture
from faststeer.extraction.extract import activations, extract
from faststeer.extraction.moments import Moments
from faststeer.extraction.probe_heads import HeadProbes, probe_heads
from faststeer.patching.bake import bake
from faststeer.patching.install import install, uninstall
from faststeer.patching.patch import patch
from faststeer.patching.patched import Patched
from faststeer.patching.to_lora import to_lora
from faststeer.steering.conditions import when
from faststeer.steering.feature_condition import when_active
from faststeer.steering.handles import Handle
from faststeer.steering.written import after, at, between, first, until
from faststeer.utils.version import VERSION as __version__
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.steering_vector import SteeringVector

__all__ = [
    "ActAdd",
    "FaststeerWarning",
    "Handle",
    "HeadProbes",
    "Moments",
    "Patched",
    "SteeringVector",
    "__version__",
    "act_add",
    "activations",
    "after",
    "at",
    "bake",
    "between",
    "capture",
    "data",
    "diagnostics",
    "extract",
    "first",
    "install",
    "pairs",
    "patch",
    "probe_heads",
    "to_lora",
    "tune",
    "uninstall",
    "until",
    "when",
    "when_active",
]


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
