"""Final hidden states of a batch under many settings; layers below the steering run once."""

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


class SettingStates(NamedTuple):
    """Final hidden states ``[S, P, H]`` of P tokens under the settings of S indices.

    The unsteered states have S = 1 and stand for all their indices: those of settings that steer
    nothing, and the last result's.
    """

    indices: list[int]
    hidden: Tensor


class CurrentSteering:
    """A model with its active steering: one setting, of index 0."""

    num_results = 1
    compares_with_unsteered = False

    def __init__(self, model: nn.Module) -> None:
        """Prepare calls of `model`, patched or not."""
        self.calls = TextCalls(model)

    def run(self, batch: Batch, chosen: Tensor) -> Iterator[SettingStates]:
        """Yield the states of the P tokens of `batch` that `chosen` ``[B, T]`` bool marks."""
        hidden = _last_hidden(self.calls, batch)
        yield SettingStates([0], hidden[chosen.to(hidden.device)][None])


class ManySettings:
    """A patched model under many settings (rows of `Patched.rows`) and, as last result, unsteered.

    Settings whose steering starts at the same site share forward passes that start there.
    """

    compares_with_unsteered = True

    def __init__(self, patched: Patched, settings: Sequence[Row], at_once: int = 8) -> None:
        """Group the settings by the site at which their steering starts.

        Args:
            patched: the model with its handles.
            settings: named coefficients, as `Patched.rows` accepts them.
            at_once: settings per forward pass, each with a copy of the batch.

        Raises:
            TypeError, ValueError: as `Patched.rows`; inside `off`, which disables settings too; a
                vector of `learn`, which steers under every setting.
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
        self.num_results = len(self.settings) + 1
        self.layer_reuse = LayerReuse(patched.decoder)
        first = [_first_site(patched.plan.interventions, row) for row in self.settings]
        self.unsteered = [index for index, site in enumerate([*first, None]) if site is None]
        self.groups: list[tuple[Site, list[int]]] = []
        sites = {site for site in first if site is not None}
        for site in sorted(sites, key=lambda site: site.depth):
            indices = [index for index, other in enumerate(first) if other == site]
            chunks = range(0, len(indices), at_once)
            self.groups += [(site, indices[start : start + at_once]) for start in chunks]

    def run(self, batch: Batch, chosen: Tensor) -> Iterator[SettingStates]:
        """Yield the states of the P tokens of `batch` that `chosen` ``[B, T]`` bool marks.

        The unsteered states come first.
        """
        sites = dict.fromkeys(site for site, _ in self.groups if self.layer_reuse.supports(site))
        with self.patched.rows([{}]), self.layer_reuse.record_inputs(list(sites)) as recorded:
            hidden = _last_hidden(self.calls, batch)
        chosen = chosen.to(hidden.device)  # of a model on several devices, the last layer's
        yield SettingStates(self.unsteered, hidden[chosen][None])
        for at, (site, indices) in enumerate(self.groups):
            hidden = self._steered(batch, site, indices, recorded.get(site))
            yield SettingStates(indices, hidden.view(len(indices), *chosen.shape, -1)[:, chosen])
            if site not in (later for later, _ in self.groups[at + 1 :]):
                recorded.pop(site, None)

    def _steered(
        self, batch: Batch, site: Site, indices: list[int], inputs: SiteInputs | None
    ) -> Tensor:
        times = len(indices)
        repeated = Batch(batch.ids.repeat(times, 1), batch.mask.repeat(times, 1))
        with self.patched.rows([self.settings[index] for index in indices]):
            if inputs is None:
                return _last_hidden(self.calls, repeated)
            added, residual = (part.repeat(times, 1, 1) for part in inputs)
            with self.layer_reuse.start_at(site, (added, residual)):
                return _last_hidden(self.calls, repeated)


SettingRunner = CurrentSteering | ManySettings


def _last_hidden(calls: TextCalls, batch: Batch) -> Tensor:
    with torch.inference_mode():
        return calls.output(batch)


def _first_site(steered: dict[str, Intervention], row: Row) -> Site | None:
    """Return the first site at which a row may act; None for a row that steers nothing.

    The first layer's input, below which nothing can be shared, for a row with a condition.
    """
    found: list[Site] = []
    for name, given in row.items():
        one = steered[name]
        for layer, strength in one.strengths(given).items():
            if strength or one.does_more_than_add:
                found += one.sites_of(layer)
        if one.when is not None:  # the condition is evaluated in a layer below, which has to run
            found.append(Site(0, "resid_pre"))
    return min(found, key=lambda site: site.depth, default=None)
