"""Final hidden states of a batch under many settings; the layers below the steering run once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from faststeer.data.batches import Batch
from faststeer.evaluate.layer_reuse import LayerReuse, SiteInputs
from faststeer.models.text_calls import TextCalls
from faststeer.patching.patched import Patched
from faststeer.steering.intervention import Intervention
from faststeer.steering.plan import Row
from faststeer.vectors.sites import Site


class Run(NamedTuple):
    """`hidden` ``[S, P, H]`` of P tokens under the settings of these numbers.

    The unsteered run comes first of a batch's. There S is 1 and stands for all its numbers: those
    of the settings that steer nothing, and the last line's.
    """

    numbers: list[int]
    hidden: Tensor


class CurrentSteering:
    """The model as it is now: one setting, that of number 0."""

    lines = 1
    beside_unsteered = False

    def __init__(self, model: nn.Module) -> None:
        """`model`: patched or not."""
        self.calls = TextCalls(model)

    def over(self, batch: Batch, wanted: Tensor) -> Iterator[Run]:
        """Its one run; `wanted` ``[B, T]`` bool: the P tokens."""
        hidden = _last_hidden(self.calls, batch)
        yield Run([0], hidden[wanted.to(hidden.device)][None])


class ManySettings:
    """A patched model under each of many rows of `Patched.rows`, and, as its last line, unsteered.

    Settings that begin to steer at the same site share a forward that goes on from there.
    """

    beside_unsteered = True

    def __init__(self, patched: Patched, settings: Sequence[Row], at_once: int = 8) -> None:
        """`at_once`: settings of a forward, each with a batch of its own.

        Raises:
            TypeError, ValueError: as `rows` does, and where the model cannot be unsteered: within
                `off`, which settings are too, and with a vector that `learn` has put to work.
        """
        if at_once < 1:
            raise ValueError(f"at_once is {at_once}; expected at least 1")
        self.settings = list(settings)
        if self.settings:
            patched.rows(self.settings)
        if patched.plan.disable_depth:
            raise ValueError("settings steer nothing within patched.off(); measure outside of it")
        if patched.plan.tables.learned:
            raise ValueError(
                f"{list(patched.plan.tables.learned)} of patched.learn() steer under every "
                "setting; remove() them first, and steer with their `vector` to measure it"
            )
        self.patched = patched
        self.calls = TextCalls(patched.decoder)
        self.lines = len(self.settings) + 1
        self.resuming = LayerReuse(patched.decoder)
        first = [_first_site(patched.plan.interventions, row) for row in self.settings]
        self.unsteered = [number for number, site in enumerate([*first, None]) if site is None]
        self.groups: list[tuple[Site, list[int]]] = []
        sites = {site for site in first if site is not None}
        for site in sorted(sites, key=lambda site: site.depth):
            numbers = [number for number, other in enumerate(first) if other == site]
            chunks = range(0, len(numbers), at_once)
            self.groups += [(site, numbers[start : start + at_once]) for start in chunks]

    def over(self, batch: Batch, wanted: Tensor) -> Iterator[Run]:
        """Its runs, the unsteered one first; `wanted` ``[B, T]`` bool: the P tokens."""
        sites = dict.fromkeys(site for site, _ in self.groups if self.resuming.can(site))
        with self.patched.rows([{}]), self.resuming.keeping(list(sites)) as kept:
            hidden = _last_hidden(self.calls, batch)
        chosen = wanted.to(hidden.device)  # of a model on several devices, the last layer's
        yield Run(self.unsteered, hidden[chosen][None])
        for at, (site, numbers) in enumerate(self.groups):
            hidden = self._steered(batch, site, numbers, kept.get(site))
            yield Run(numbers, hidden.view(len(numbers), *chosen.shape, -1)[:, chosen])
            if site not in (later for later, _ in self.groups[at + 1 :]):
                kept.pop(site, None)

    def _steered(
        self, batch: Batch, site: Site, numbers: list[int], meeting: SiteInputs | None
    ) -> Tensor:
        times = len(numbers)
        many = Batch(batch.ids.repeat(times, 1), batch.mask.repeat(times, 1))
        with self.patched.rows([self.settings[number] for number in numbers]):
            if meeting is None:
                return _last_hidden(self.calls, many)
            added, residual = (part.repeat(times, 1, 1) for part in meeting)
            with self.resuming.from_site(site, (added, residual)):
                return _last_hidden(self.calls, many)


Runs = CurrentSteering | ManySettings


def _last_hidden(calls: TextCalls, batch: Batch) -> Tensor:
    with torch.inference_mode():
        return calls.output(batch)


def _first_site(steered: dict[str, Intervention], row: Row) -> Site | None:
    """Where a row begins to act; a site that nothing can be shared below where it may do so
    anywhere.
    """
    found: list[Site] = []
    for name, amount in row.items():
        one = steered[name]
        for layer, weight in one.by_layer(amount).items():
            if weight or one.does_more_than_add:
                found += one.sites_of(layer)
        if one.when is not None:  # it is decided in a layer below, which has to run
            found.append(Site(0, "resid_pre"))
    return min(found, key=lambda site: site.depth, default=None)
