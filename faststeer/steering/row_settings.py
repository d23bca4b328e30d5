"""Every sequence of a batch its own steering, for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING

from faststeer.steering.plan import Row
from faststeer.vectors.arguments import finite

if TYPE_CHECKING:
    from faststeer.steering.plan import Plan


class RowSettings:
    """What `Patched.rows` returns: a list of settings that counts inside its `with` block.

    Inside, rows can be changed, appended and deleted; each change takes effect at the next forward.
    """

    def __init__(self, plan: Plan, rows: Sequence[Row]) -> None:
        """Made by `Patched.rows`. Raises as that says; nothing has changed then."""
        self._plan = plan
        if not isinstance(rows, (list, tuple)):
            raise TypeError(f"rows is a {type(rows).__name__}; expected a list, one row a sequence")
        if not rows:
            raise ValueError("rows is empty; give one row a sequence, {} for an unsteered one")
        self._rows: list[Row] = [self._checked(row, i) for i, row in enumerate(rows)]

    def __enter__(self) -> RowSettings:
        """From here on the rows replace the shared coefficients.

        Raises:
            ValueError: entered already, or vectors were removed or replaced since, so that a row
                cannot be had any more.
        """
        self._plan.turns.require()
        if self._entered:
            raise ValueError("this block of rows is entered already; make another with rows()")
        for number, row in enumerate(self._rows):
            self._checked(row, number)
        self._plan.set_rows([*self._plan.rows, self._rows])
        return self

    def __exit__(self, *exception: object) -> None:
        """What counted before counts again."""
        self._plan.set_rows([block for block in self._plan.rows if block is not self._rows])
        self._plan.turns.require()  # a forward that went on saw both

    def __len__(self) -> int:
        """How many rows there are; it has to divide the batch."""
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        """Each row, as it was given."""
        return iter([dict(row) for row in self._rows])

    def __setitem__(self, number: int, row: Row) -> None:
        """Give one sequence another setting."""
        rows = list(self._rows)
        rows[index(number)] = self._checked(row, number)
        self._become(rows)

    def append(self, row: Row) -> None:
        """Add a sequence."""
        self._become([*self._rows, self._checked(row, len(self))])

    def __delitem__(self, number: int) -> None:
        """Take a sequence away; those after it move up. The last one has to stay."""
        if len(self) == 1:
            raise ValueError("the last row cannot be deleted; leave the block instead")
        rows = list(self._rows)
        del rows[index(number)]
        self._become(rows)

    @property
    def _entered(self) -> bool:
        return any(block is self._rows for block in self._plan.rows)

    def _become(self, rows: list[Row]) -> None:
        self._plan.turns.require()
        if self._entered:
            blocks = [rows if block is self._rows else block for block in self._plan.rows]
            self._plan.set_rows(blocks)
        self._rows = rows

    def _checked(self, row: Row, number: int) -> Row:
        """A copy of what was given."""
        if not isinstance(row, Mapping):
            raise TypeError(
                f"row {number} is a {type(row).__name__}; expected {{name: coefficient}}"
            )
        copied: dict[str, float | Mapping[int, float]] = {}
        for name, value in row.items():
            steered = self._plan.steered.get(name)
            if steered is None:
                there = ", ".join(map(repr, self._plan.steered)) or "none"
                raise ValueError(
                    f"row {number}: no vector named {name!r} is at work; there are: {there}"
                )
            what = f"row {number}: coefficient of {name!r}"
            if isinstance(value, Mapping):
                copied[name] = {layer: finite(c, what) for layer, c in value.items()}
            else:
                copied[name] = finite(value, what)
            self._plan.check_amount(name, steered, copied[name], number)
        return copied
