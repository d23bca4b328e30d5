"""`Handle`: an active vector, with its coefficient and its bounds live."""

from __future__ import annotations

from torch import Tensor

from faststeer.steering.described import facts_of, in_one_line
from faststeer.steering.plan import Plan
from faststeer.utils.html_facts import html_facts
from faststeer.vectors.arguments import finite
from faststeer.vectors.bounds import Bound, as_bounds, bounds_by_layer
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector


class Handle:
    """An active vector of a patched model.

    Setting `coefficient`, or the `floor` and `ceiling` of a cap, takes effect at the next step.
    """

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
        """What met `when=`, bool: the sequences of the last prompts ``[B]``; None without one.

        For a condition by token, the tokens of the last forward pass for which it held ``[B, T]``;
        None where that was compiled or captured.
        """
        return self._plan.passed(self._intervention.when)

    @property
    def active(self) -> bool:
        """Whether it still steers, neither removed nor replaced by another of its name."""
        return self._plan.interventions.get(self.name) is self._intervention

    @property
    def coefficient(self) -> float:
        """The factor on the vector, written in place while it steers, without recompilation."""
        return self._intervention.coefficient

    @coefficient.setter
    def coefficient(self, value: float) -> None:
        self._require_active()
        self._plan.set_coefficient(
            self._intervention, finite(value, f"coefficient of {self.name!r}")
        )
        self._plan.doses.expect(self.name, self._intervention)

    @property
    def floor(self) -> Bound:
        """The least projection of a cap, per layer where they differ, or None; live as `ceiling`.

        Only a cap takes another one; a floor over the ceiling raises ValueError.
        """
        return as_bounds(self._intervention.bounds)[0]

    @floor.setter
    def floor(self, value: Bound) -> None:
        self._set_bounds(value, self.ceiling)

    @property
    def ceiling(self) -> Bound:
        """The greatest projection of a cap, per layer where they differ, or None."""
        return as_bounds(self._intervention.bounds)[1]

    @ceiling.setter
    def ceiling(self, value: Bound) -> None:
        self._set_bounds(self.floor, value)

    def _set_bounds(self, floor: Bound, ceiling: Bound) -> None:
        self._require_active()
        own = self._intervention
        if own.mode != "cap":
            raise ValueError(f"{self.name!r} is in mode {own.mode!r}, which has no bounds")
        self._plan.set_bounds(own, bounds_by_layer(floor, ceiling, own.factors))

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
