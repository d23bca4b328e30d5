"""What steers a model: named vectors, and who gets which of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.models.calls import DecoderCall, DecoderSignature
from faststeer.steering.doses import Doses
from faststeer.steering.intervention import Intervention, Weights
from faststeer.steering.slots import Setting
from faststeer.steering.tables import Tables
from faststeer.steering.thread_guard import ThreadGuard
from faststeer.steering.token_positions import PromptLayout
from faststeer.vectors.sites import Site

Row = Mapping[str, float | Weights]  # by the name of a vector: a coefficient, or layer by layer


@dataclass(eq=False)
class Plan:
    """All vectors at work on one model, by name; rows, while there are any; the tables."""

    tables: Tables
    signature: DecoderSignature
    steered: dict[str, Intervention] = field(default_factory=dict)
    rows: list[list[Row]] = field(default_factory=list)  # of nested blocks; the last counts
    times_off: int = 0
    prompts: PromptLayout | None = None  # of the generate that is running
    unknown_prompts: str | None = None  # why those of the generate that is running are not known
    # Of running models around the decoder: their thread and the mask that they were given.
    outer_masks: list[tuple[int, Any]] = field(default_factory=list)
    peft_models: list[nn.Module] = field(default_factory=list)  # around the decoder
    prompt_lengths: Tensor | None = None  # [B], set by the caller
    turns: ThreadGuard = field(default_factory=ThreadGuard)
    doses: Doses = field(default_factory=Doses)
    watchers: list[Callable[[DecoderCall], None]] = field(default_factory=list)  # of each forward

    @classmethod
    def for_layers(
        cls,
        decoder: nn.Module,
        devices: list[torch.device],
        hidden_size: int,
        kinds: Sequence[str] = ("resid_mid", "resid_post"),
    ) -> Plan:
        """Make tables for a decoder whose layer i is on ``devices[i]``; `kinds`: of each layer."""
        sites = {Site(0, "resid_pre"): devices[0]}
        for layer, device in enumerate(devices):
            sites |= {Site(layer, kind): device for kind in kinds}
        return cls(Tables(hidden_size, sites), DecoderSignature.of(decoder))

    @property
    def idle(self) -> bool:
        """Whether nothing steers, and nothing reads."""
        return not (self.steered or self.rows or self.tables.learned or self.tables.is_read)

    def put(self, name: str, steered: Intervention) -> None:
        """Add a vector; one of the same name is replaced, also in the order and in rows.

        Raises:
            ValueError: rows that name it want what the new one cannot give.
        """
        for rows in self.rows:
            for number, row in enumerate(rows):
                if name in row:
                    self.check_amount(name, steered, row[name], number)
        before = self.steered.get(name)
        with self._all_or_nothing():
            self.steered[name] = steered
            sites = steered.sites() | (before.sites() if before else set())
            self._rewrite(None if self.rows else sites)  # rows may name other layers

    def set_coefficient(self, steered: Intervention, coefficient: float) -> None:
        """Change one coefficient in place. Raises ValueError where it overflows float32."""
        steered.require_finite(replace(steered, coefficient=coefficient).weights())
        steered.coefficient = coefficient
        self._rewrite(steered.sites())

    def remove(self, name: str) -> None:
        """Take a vector away. Raises ValueError where rows name it."""
        if any(name in setting for rows in self.rows for setting in rows):
            raise ValueError(f"{name!r} is named by rows; leave their block or change them first")
        self._rewrite(self.steered.pop(name).sites())

    def clear(self) -> None:
        """Take all vectors and rows away."""
        self.rows.clear()
        self.steered.clear()
        self.tables.learned.clear()
        self.doses.interrupt(self)
        self._rewrite(None)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Steer nothing inside; nests."""
        self.times_off += 1  # a count, because blocks of several threads may overlap
        try:
            self._rewrite(None)
            yield
        finally:
            self.times_off -= 1
            self._rewrite(None)
            self.turns.require()  # a forward that went on saw both

    def set_rows(self, rows: list[list[Row]]) -> None:
        """What each row gets, in nested blocks of which the last counts; none: all get the same."""
        with self._all_or_nothing():
            self.rows = rows
            self._rewrite(None)

    def check_amount(
        self, name: str, steered: Intervention, amount: float | Weights, row: int
    ) -> None:
        """Raise ValueError where a row cannot have so much of a vector."""
        weights = steered.weights(amount)
        try:
            if lacking := [layer for layer in weights if layer not in steered.vector.directions]:
                steered.vector.select(lacking)
            for layer in weights:
                sites = set(steered.sites_of(layer))
                if not self.tables.keys() >= sites:
                    last = max(site.layer for site in self.tables)
                    raise ValueError(f"layer {layer} is out of range: the model has 0 to {last}")
                if steered.when is not None:
                    steered.when.require_before(sites)
            steered.require_finite(weights)
        except ValueError as error:
            raise ValueError(f"row {row}, {name!r}: {error}") from None

    @property
    def settings(self) -> list[Setting]:
        """What each row gets now; one for all where there are no rows."""
        if self.times_off:
            return [{}]
        if self.rows:
            rows = self.rows[-1]
            return [{n: self.steered[n].weights(a) for n, a in row.items()} for row in rows]
        return [{name: steered.weights() for name, steered in self.steered.items()}]

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Undo a change of vectors or rows for which the tables have, and get, no room."""
        steered, rows = dict(self.steered), self.rows
        try:
            yield
        except BaseException:
            self.steered, self.rows = steered, rows
            raise

    def _rewrite(self, sites: set[Site] | None) -> None:
        """Write what steers at some sites, or at all."""
        self.tables.off = self.times_off > 0
        self.tables.write(self.steered, self.settings, sites)
        if self.turns.in_forward:  # as a hook may, or what a forward calls
            self.tables.go_on()
