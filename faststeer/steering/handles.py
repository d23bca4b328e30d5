"""What `steer` returns: a vector at work, its coefficient live."""

from __future__ import annotations

from torch import Tensor

from faststeer.steering.plan import Plan
from faststeer.vectors.arguments import finite
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector


class Handle:
    """A vector at work on a patched model. Setting `coefficient` takes effect at the next step."""

    def __init__(self, plan: Plan, name: str) -> None:
        """Made by `Patched.steer`."""
        self.name = name
        self._plan = plan
        self._steered = plan.steered[name]

    @property
    def vector(self) -> SteeringVector:
        """What is added."""
        return self._steered.vector

    @property
    def layers(self) -> list[int]:
        """Where: 0-based decoder layers, at the vector's site."""
        return list(self._steered.factors)

    @property
    def sites(self) -> set[Site]:
        """The places in the residual stream that it acts on."""
        return self._steered.sites()

    @property
    def passed(self) -> Tensor | None:
        """``[B]`` bool: the sequences of the last prompts that met `when=`; None without one."""
        return self._plan.tables.passed(self._steered.when)

    @property
    def active(self) -> bool:
        """Whether it is still at work: not removed, and not replaced by another of its name."""
        return self._plan.steered.get(self.name) is self._steered

    @property
    def coefficient(self) -> float:
        """The factor on the vector. Live: written in place, no recompilation."""
        return self._steered.coefficient

    @coefficient.setter
    def coefficient(self, value: float) -> None:
        self._require_active()
        self._plan.set_coefficient(self._steered, finite(value, f"coefficient of {self.name!r}"))
        self._plan.doses.expect(self.name, self._steered)

    def remove(self) -> None:
        """Stop steering with this vector."""
        self._require_active()
        self._plan.remove(self.name)

    def _require_active(self) -> None:
        self._plan.turns.require()
        if not self.active:
            raise ValueError(
                f"{self.name!r} was removed or replaced; steer() again for a new handle"
            )

    def __repr__(self) -> str:
        """Name, coefficient and layers."""
        state = "" if self.active else ", removed"
        return f"Handle({self.name!r}, coefficient={self.coefficient}, layers={self.layers}{state})"
