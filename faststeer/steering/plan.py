"""The active steering of a model: named interventions, and their coefficients per row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from faststeer.steering.conditions import Condition, TokenCondition
from faststeer.steering.dose_warnings import Doses
from faststeer.steering.fold_coefficients import Setting
from faststeer.steering.forward_context import ForwardContext
from faststeer.steering.intervention import Coefficients, Intervention, RowBounds
from faststeer.steering.learned import Learned
from faststeer.steering.scopes import Scope
from faststeer.steering.site_table import Reader
from faststeer.steering.tables import Tables
from faststeer.steering.token_positions import BatchTokens
from faststeer.vectors.bounds import Bounds
from faststeer.vectors.sites import Site

# By the name of a vector: a coefficient, or layer by layer; of a cap, its bounds
Row = Mapping[str, float | Coefficients | RowBounds]


class Plan:
    """All interventions of one model, by name, and rows of settings; written into the tables.

    `reading` and `watching` are how other code sees what a forward computes; `begin` and `end`
    enclose each forward.
    """

    def __init__(self, tables: Tables) -> None:
        """Create a plan that steers nothing."""
        self.tables = tables
        self.interventions: dict[str, Intervention] = {}
        self.rows: list[list[Row]] = []  # of nested blocks; the last counts
        self.disable_depth = 0
        self.doses = Doses(tables)

    @classmethod
    def for_layers(
        cls,
        devices: Sequence[torch.device],
        hidden_size: int,
        kinds: Sequence[str] = ("resid_mid", "resid_post"),
    ) -> Plan:
        """Make tables for a decoder whose layer i is on ``devices[i]``; `kinds`: per layer."""
        sites = {Site(0, "resid_pre"): devices[0]}
        for layer, device in enumerate(devices):
            sites |= {Site(layer, kind): device for kind in kinds}
        return cls(Tables(hidden_size, sites))

    @property
    def forward(self) -> ForwardContext:
        """What the running forward pass knows."""
        return self.tables.forward

    @property
    def idle(self) -> bool:
        """Whether nothing steers, and nothing reads."""
        return not (self.interventions or self.rows or self.tables.learned or self.tables.is_read)

    def begin(self, sequences: int, tokens: int, device: torch.device) -> None:
        """Start a forward over ``[sequences, tokens]``. Raises as `ForwardContext.begin`."""
        self.forward.begin(sequences, tokens, device)

    def end(self) -> None:
        """End the forward."""
        self.forward.end()

    def interrupt(self) -> None:
        """Stop what belonged to a forward that has ended or failed."""
        self.forward.direct = False
        self.doses.interrupt()

    def reading(self, site: Site, reader: Reader) -> AbstractContextManager[None]:
        """Inside, call `reader` with the steered residual stream ``[B, T, H]`` of every forward."""
        return self.tables[site].reading(reader)

    @contextmanager
    def watching(
        self, watcher: Callable[[BatchTokens], None], scope: Scope | None = None
    ) -> Iterator[None]:
        """Inside, call `watcher` with the tokens of every forward, before its first layer.

        `scope`: whose masks it looks at in each of them, so that states are kept for it.
        """
        forward, watched = self.forward, [] if scope is None else [scope]
        forward.watchers.append(watcher)
        forward.watched += watched
        forward.keep_states()
        try:
            yield
        finally:
            forward.watchers.remove(watcher)
            for own in watched:
                forward.watched.remove(own)
            forward.keep_states()

    def measures_dose(self, given: Tensor) -> bool:
        """Return whether a forward over `given` can measure doses that are due."""
        alike = not (self.rows or self.disable_depth)
        return self.doses.due and alike and self.doses.measurable(given)

    def passed(self, condition: Condition | None) -> Tensor | None:
        """Return the last decision on a condition, ``[B]`` bool, or ``[B, T]`` by token."""
        if isinstance(condition, TokenCondition):
            return self.forward.decided(condition)
        return None if condition is None else self.forward.gates.passed(condition)

    def put(self, name: str, intervention: Intervention) -> None:
        """Add an intervention; one of the same name is replaced, also in the order and in rows.

        Raises:
            ValueError: rows that name it ask for what the new one cannot give.
        """
        for rows in self.rows:
            for number, row in enumerate(rows):
                if name in row:
                    self.require_possible(name, intervention, row[name], number)
        before = self.interventions.get(name)
        with self._all_or_nothing():
            self.interventions[name] = intervention
            sites = intervention.sites() | (before.sites() if before else set())
            self._rewrite(None if self.rows else sites)  # rows may name other layers

    def set_coefficient(self, intervention: Intervention, coefficient: float) -> None:
        """Change one coefficient in place. Raises ValueError where it overflows float32."""
        intervention.require_finite(replace(intervention, coefficient=coefficient).by_layer())
        intervention.coefficient = coefficient
        self._rewrite(intervention.sites())

    def set_bounds(self, intervention: Intervention, bounds: Mapping[int, Bounds]) -> None:
        """Change the bounds of a cap in place."""
        intervention.bounds = bounds
        self._rewrite(intervention.sites())

    def remove(self, name: str) -> None:
        """Remove an intervention. Raises ValueError where rows name it."""
        if any(name in row for rows in self.rows for row in rows):
            raise ValueError(f"{name!r} is named by rows; leave their block or change them first")
        self._rewrite(self.interventions.pop(name).sites())

    def clear(self) -> None:
        """Remove all interventions, learned vectors and rows."""
        self.rows.clear()
        self.interventions.clear()
        self.tables.forget_all()
        self.doses.interrupt()
        self._rewrite(None)

    def learn(self, name: str, intervention: Intervention) -> Learned:
        """Add a vector whose directions and coefficient are trained."""
        learned = Learned(name, intervention, self.tables.devices, self._forget)
        self.tables.learn(learned)
        return learned

    @property
    def learned(self) -> Mapping[str, Learned]:
        """The active trainable vectors, by name."""
        return self.tables.learned

    def _forget(self, name: str) -> None:
        self.forward.guard.require()
        self.tables.forget(name)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Steer nothing inside; nests."""
        self.disable_depth += 1  # a count, because blocks of several threads may overlap
        try:
            self._rewrite(None)
            yield
        finally:
            self.disable_depth -= 1
            self._rewrite(None)
            self.forward.guard.require()  # a concurrent forward saw both states

    def set_rows(self, rows: list[list[Row]]) -> None:
        """Set the nested blocks of rows, of which the last counts; none: all rows are alike."""
        with self._all_or_nothing():
            self.rows = rows
            self._rewrite(None)

    def require_possible(
        self,
        name: str,
        intervention: Intervention,
        given: float | Coefficients | RowBounds,
        row: int,
    ) -> None:
        """Raise ValueError where a row cannot have this coefficient, or these bounds."""
        try:
            strengths = intervention.strengths(given)
            directions = intervention.vector.directions
            if lacking := [layer for layer in strengths if layer not in directions]:
                intervention.vector.select(lacking)
            for layer in strengths:
                sites = set(intervention.sites_of(layer))
                if not self.tables.keys() >= sites:
                    last = max(site.layer for site in self.tables)
                    raise ValueError(f"layer {layer} is out of range: the model has 0 to {last}")
                if intervention.when is not None:
                    intervention.when.require_before(sites)
            intervention.require_finite(strengths)
        except ValueError as error:
            raise ValueError(f"row {row}, {name!r}: {error}") from None

    @property
    def settings(self) -> list[Setting]:
        """The setting of each row; one for all where there are no rows."""
        if self.disable_depth:
            return [{}]
        if self.rows:
            rows = self.rows[-1]
            return [{n: self.interventions[n].strengths(c) for n, c in row.items()} for row in rows]
        return [{name: one.strengths() for name, one in self.interventions.items()}]

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Undo a change for which the tables have no room."""
        interventions, rows = dict(self.interventions), self.rows
        try:
            yield
        except BaseException:
            self.interventions, self.rows = interventions, rows
            raise

    def _rewrite(self, sites: set[Site] | None) -> None:
        """Write the settings at some sites, or at all."""
        self.tables.turn_off(self.disable_depth > 0)
        self.tables.write(self.interventions, self.settings, sites)
        if self.forward.guard.in_forward:  # called by a hook, or by the model itself
            self.forward.refresh()
