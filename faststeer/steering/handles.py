"""`Handle`: an active vector, with its coefficient live."""

from __future__ import annotations

from torch import Tensor

from faststeer.steering.described import facts_of, in_one_line
from faststeer.steering.plan import Plan
from faststeer.utils.html_facts import html_facts
from faststeer.vectors.arguments import finite
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector


class Handle:
    """An active vector of a patched model. Setting `coefficient` takes effect at the next step."""

    def __init__(self, plan: Plan, name: str) -> None:
        """Refer to the intervention of that name; made by `Patched.steer`."""
        self.name = name
        self._plan = plan
        self._intervention = plan.interventions[name]

    @property
    def vector(self) -> SteeringVector:
        """The vector that steers."""
        return self._intervention.vector

    @property
    def layers(self) -> list[int]:
        """The 0-based decoder layers that it steers, at the vector's site."""
        return list(self._intervention.factors)

    @property
    def sites(self) -> set[Site]:
        """The sites that it acts at."""
        return self._intervention.sites()

    @property
    def passed(self) -> Tensor | None:
        """``[B]`` bool: the sequences of the last prompts that met `when=`; None without one."""
        return self._plan.passed(self._intervention.when)

    @property
    def active(self) -> bool:
        """Whether it still steers: not removed, and not replaced by another of its name."""
        return self._plan.interventions.get(self.name) is self._intervention

    @property
    def coefficient(self) -> float:
        """The factor on the vector. Live: written in place, no recompilation."""
        return self._intervention.coefficient

    @coefficient.setter
    def coefficient(self, value: float) -> None:
        self._require_active()
        self._plan.set_coefficient(
            self._intervention, finite(value, f"coefficient of {self.name!r}")
        )
        self._plan.doses.expect(self.name, self._intervention)

    def remove(self) -> None:
        """Stop steering with this vector."""
        self._require_active()
        self._plan.remove(self.name)

    def _require_active(self) -> None:
        self._plan.forward.guard.require()
        if not self.active:
            raise ValueError(
                f"{self.name!r} was removed or replaced; steer() again for a new handle"
            )

    def __repr__(self) -> str:
        """Return name, mode, coefficient, layers, positions and condition."""
        return f"Handle({self.name!r}: {in_one_line(self._intervention)}{self._state})"

    def _repr_html_(self) -> str:
        """Return the same as a table, for notebooks."""
        return html_facts(f"Handle {self.name!r}{self._state}", facts_of(self._intervention))

    @property
    def _state(self) -> str:
        return "" if self.active else ", removed"
