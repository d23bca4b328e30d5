"""Activations by content: what was read of a batch of texts is looked up before the model runs.

The unit is a batch, since the last bits of a text's activations depend on what it is padded with:
values from the cache equal those without it bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from faststeer.extraction.cache_files import FORMAT_VERSION, Cache, CacheFiles, Entry, LayerRows
from faststeer.extraction.selection import RecordedSinks, SinkCounts
from faststeer.models.model_state import UnknownState, state_digest
from faststeer.models.patch_mark import MARK
from faststeer.models.text_calls import TextCalls
from faststeer.ops.arithmetic import arithmetic_facts
from faststeer.patching.patched import Patched
from faststeer.utils.version import VERSION

Found = dict[int, Tensor]  # layer -> activations


class BatchCache:
    """Cached activations of one decoder at one site, for chosen layers."""

    def __init__(
        self, cache: Cache, calls: TextCalls, site: str, layers: Sequence[int], sinks: SinkCounts
    ) -> None:
        """Open the cache.

        Args:
            cache: True, or a folder.
            calls: of the decoder that is read.
            site: where it is read.
            layers: those that are read.
            sinks: what cached batches add their attention sinks to.

        Raises:
            TypeError, ValueError, OSError: as `CacheFiles`.
        """
        self.files = CacheFiles(cache)
        self.calls = calls
        self.site = site
        self.layers = list(layers)
        self.sinks = sinks
        self.refused: str | None = None  # why activations are not cached
        self._model: dict[str, Any] | None = None  # what its bits depend on, once needed

    def read(
        self,
        facts: Mapping[str, Any],
        ids: Sequence[Sequence[Sequence[int]]],
        compute: Callable[[], Found],
        on_hit: Callable[[], None],
        counts_sinks: bool,
    ) -> Found:
        """Return layer -> activations, from the cache or as `compute` returns them.

        Args:
            facts: JSON values that tell what is read of the texts.
            ids: token ids of the texts of each example of the batch.
            compute: reads them with the model.
            on_hit: called where the cache has them.
            counts_sinks: whether `compute` counts attention sinks.
        """
        if self._known_model() is None:
            return compute()
        key = self._key({**facts, "ids": ids, "pads": self.calls.pads})
        entry = self.files.load(key, self.layers)
        if len(entry.layers) < len(self.layers):
            return self._compute_and_store(key, bool(entry.layers), compute)
        on_hit()
        self.calls.pads = entry.pads
        own = [entry.layers[layer] for layer in self.layers]
        if counts_sinks:
            places = [(one.left_out, one.only_sinks) for one in own]
            texts, device = sum(map(len, ids)), self.sinks.counts.device
            self.sinks.add(*RecordedSinks.masks(places, texts, device))
        return {layer: one.rows for layer, one in zip(self.layers, own, strict=True)}

    def note(self, facts: Mapping[str, Any], measure: Callable[[], str]) -> str:
        """Return what `measure` returned for these facts about the decoder, now or earlier."""
        if self._known_model() is None:
            return measure()
        key = self._key(facts)
        found = self.files.load_note(key)
        if found is None:
            found = measure()
            self.files.store_note(key, found)
        return found

    def messages(self) -> list[str]:
        """Return what to warn of."""
        refused = [] if self.refused is None else [f"activations were not cached: {self.refused}"]
        return refused + self.files.messages()

    def _compute_and_store(self, key: str, stored: bool, compute: Callable[[], Found]) -> Found:
        with self.sinks.recording() as recorded:
            found = compute()
        entry = self.files.load(key) if stored else Entry()  # with the layers that it has besides
        entry.pads = self.calls.pads
        for number, layer in enumerate(self.layers):
            left_out, only = recorded.of_layer(number)
            entry.layers[layer] = LayerRows(found[layer], left_out, only)
        self.files.store(key, entry)
        return found

    def _key(self, facts: Mapping[str, Any]) -> str:
        whole = {"model": self._model, "site": self.site, "facts": dict(facts)}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def _known_model(self) -> dict[str, Any] | None:
        """Return what the decoder's bits depend on; None where that is not known by its content."""
        steering = _active(self.calls.decoder)
        if steering is not None:
            self.refused = steering
            return None
        if self._model is None and self.refused is None:
            try:
                digest = state_digest(self.calls.decoder)
            except UnknownState as error:
                self.refused = str(error)
                return None
            own = {"decoder": digest, "faststeer": VERSION, "format": FORMAT_VERSION}
            self._model = own | arithmetic_facts(self.calls.device)
        return self._model


def _active(decoder: nn.Module) -> str | None:
    """Return a phrase that names the active steering or reading of a decoder; None without any."""
    patched = decoder.__dict__.get(MARK)
    if not isinstance(patched, Patched):
        return None
    plan = patched.plan
    if plan.tables.is_read:
        return "the model is read by a capture, which has to see it run"
    names = [*plan.interventions, *plan.learned, *(["rows"] if plan.rows else [])]
    if names and not plan.disable_depth:
        return f"the model is steered ({', '.join(names)}); within off() it is read unsteered"
    return None
