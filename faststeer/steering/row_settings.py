"""Per-sequence steering, inside a `with` block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import index
from typing import cast

from faststeer.steering.intervention import Coefficients, RowBounds, as_row_bounds
from faststeer.steering.plan import Plan, Row
from faststeer.utils.html_facts import html_facts
from faststeer.vectors.arguments import finite

_SHOWN = 8  # rows that `repr` shows


class RowSettings:
    """A list of rows of coefficients, active inside its `with` block; made by `Patched.rows`.

    Inside, rows can be changed, appended and deleted; a change takes effect at the next forward.
    """

    def __init__(self, plan: Plan, rows: Sequence[Row]) -> None:
        """Check the rows. Raises as `Patched.rows`; nothing has changed then."""
        self._plan = plan
        if not isinstance(rows, (list, tuple)):
            raise TypeError(f"rows is a {type(rows).__name__}; expected a list, one row a sequence")
        if not rows:
            raise ValueError("rows is empty; give one row a sequence, {} for an unsteered one")
        self._rows: list[Row] = [self._checked(row, i) for i, row in enumerate(rows)]

    def __enter__(self) -> RowSettings:
        """Replace the shared coefficients by the rows.

        Raises:
            ValueError: entered already, or a row has become impossible because vectors were
                removed or replaced.
        """
        self._plan.forward.guard.require()
        if self._entered:
            raise ValueError("this block of rows is entered already; make another with rows()")
        for number, row in enumerate(self._rows):
            self._checked(row, number)
        self._plan.set_rows([*self._plan.rows, self._rows])
        return self

    def __exit__(self, *exception: object) -> None:
        """Restore the previous coefficients."""
        self._plan.set_rows([block for block in self._plan.rows if block is not self._rows])
        self._plan.forward.guard.require()  # a concurrent forward saw both states

    def __len__(self) -> int:
        """Return the number of rows; it has to divide the batch."""
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        """Iterate over the rows, as they were given."""
        return iter([dict(row) for row in self._rows])

    def __setitem__(self, number: int, row: Row) -> None:
        """Replace the row of one sequence."""
        rows = list(self._rows)
        rows[index(number)] = self._checked(row, number)
        self._replace(rows)

    def append(self, row: Row) -> None:
        """Append the row of one more sequence."""
        self._replace([*self._rows, self._checked(row, len(self))])

    def __delitem__(self, number: int) -> None:
        """Delete the row of one sequence; later ones move up. The last row has to stay."""
        if len(self) == 1:
            raise ValueError("the last row cannot be deleted; leave the block instead")
        rows = list(self._rows)
        del rows[index(number)]
        self._replace(rows)

    def __repr__(self) -> str:
        """Return the rows, the first few of many, and whether they steer."""
        rows = [str(dict(row)) for row in self._rows[:_SHOWN]]
        more = len(self) - len(rows)
        shown = ", ".join([*rows, *([f"and {more} more"] if more else [])])
        return f"rows([{shown}]{self._state})"

    def _repr_html_(self) -> str:
        """Return the same as a table, for notebooks."""
        facts = {f"row {n}": dict(row) or "unsteered" for n, row in enumerate(self._rows[:_SHOWN])}
        return html_facts(f"{len(self)} rows{self._state}", facts)

    @property
    def _state(self) -> str:
        return "" if self._entered else ", not active: enter the block"

    @property
    def _entered(self) -> bool:
        return any(block is self._rows for block in self._plan.rows)

    def _replace(self, rows: list[Row]) -> None:
        self._plan.forward.guard.require()
        if self._entered:
            blocks = [rows if block is self._rows else block for block in self._plan.rows]
            self._plan.set_rows(blocks)
        self._rows = rows

    def _checked(self, row: Row, number: int) -> Row:
        """Return a copy of a row that is possible."""
        if not isinstance(row, Mapping):
            raise TypeError(
                f"row {number} is a {type(row).__name__}; expected {{name: coefficient}}"
            )
        copied: dict[str, float | Coefficients | RowBounds] = {}
        for name, value in row.items():
            intervention = self._plan.interventions.get(name)
            if intervention is None:
                there = ", ".join(map(repr, self._plan.interventions)) or "none"
                raise ValueError(
                    f"row {number}: no active vector is named {name!r}; there are: {there}"
                )
            what = f"row {number}: coefficient of {name!r}"
            if (bounds := as_row_bounds(value)) is not None:
                copied[name] = bounds
            elif isinstance(value, Mapping):
                by_layer = cast(Coefficients, value)
                copied[name] = {layer: finite(c, what) for layer, c in by_layer.items()}
            else:
                copied[name] = finite(value, what)
            self._plan.require_possible(name, intervention, copied[name], number)
        return copied
