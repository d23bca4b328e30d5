"""Every sequence of a batch its own steering, for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from faststeer.plan import Setting, finite

if TYPE_CHECKING:
    from faststeer.plan import Plan

Row: TypeAlias = Mapping[str, "float | Mapping[int, float]"]


class Rows:
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
        self._settings: list[Setting] = [self._checked(row, i) for i, row in enumerate(rows)]

    def __enter__(self) -> Rows:
        """From here on the rows replace the shared coefficients."""
        if any(block is self._settings for block in self._plan.rows):
            raise ValueError("this block of rows is entered already; make another with rows()")
        self._plan.set_rows([*self._plan.rows, self._settings])
        return self

    def __exit__(self, *exception: object) -> None:
        """What counted before counts again."""
        self._plan.set_rows([block for block in self._plan.rows if block is not self._settings])

    def __len__(self) -> int:
        """How many rows there are; it has to divide the batch."""
        return len(self._settings)

    def __iter__(self) -> Iterator[dict[str, dict[int, float]]]:
        """Each row: what every vector's layers are multiplied by."""
        return iter([{name: dict(w) for name, w in row.items()} for row in self._settings])

    def __setitem__(self, number: int, row: Row) -> None:
        """Give one sequence another setting."""
        self._settings[number] = self._checked(row, number)
        self._changed()

    def append(self, row: Row) -> None:
        """Add a sequence."""
        self._settings.append(self._checked(row, len(self)))
        self._changed()

    def __delitem__(self, number: int) -> None:
        """Take a sequence away; those after it move up. The last one has to stay."""
        if len(self) == 1:
            raise ValueError("the last row cannot be deleted; leave the block instead")
        del self._settings[number]
        self._changed()

    def _changed(self) -> None:
        if any(block is self._settings for block in self._plan.rows):
            self._plan.set_rows(self._plan.rows)

    def _checked(self, row: Row, number: int) -> Setting:
        if not isinstance(row, Mapping):
            raise TypeError(
                f"row {number} is a {type(row).__name__}; expected {{name: coefficient}}"
            )
        setting: dict[str, dict[int, float]] = {}
        for name, value in row.items():
            steered = self._plan.steered.get(name)
            if steered is None:
                there = ", ".join(map(repr, self._plan.steered)) or "none"
                raise ValueError(
                    f"row {number}: no vector named {name!r} is at work; there are: {there}"
                )
            what = f"row {number}: coefficient of {name!r}"
            if isinstance(value, Mapping):
                setting[name] = {layer: finite(c, what) for layer, c in value.items()}
                steered.vector.select(setting[name])
            else:
                coefficient = finite(value, what)
                setting[name] = {layer: coefficient * f for layer, f in steered.factors.items()}
            steered.require_finite(setting[name])
        return setting
