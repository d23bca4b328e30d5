"""What a worker process of the engine steers with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.utils.version import VERSION
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector
from faststeer.vllm.batch import Batch, Step
from faststeer.vllm.captured_tokens import CHECKED_CAPTURE_KEY
from faststeer.vllm.configuration import Configuration
from faststeer.vllm.find_sites import Found, missing_sites
from faststeer.vllm.lines import Lines
from faststeer.vllm.probe import require_compiled_steering, require_steering
from faststeer.vllm.request_checks import CHECKED_KEY, timeline_of
from faststeer.vllm.slots import Slots
from faststeer.vllm.statistics import Statistics
from faststeer.vllm.steered_modules import (
    SteeredNorm,
    SteeredNormInPlace,
    SteeredOutput,
    make_steered,
)
from faststeer.vllm.timeline import Timeline
from faststeer.vllm.vector_store import VectorStore


class EngineSteering:
    """The tables of a worker, and the modules that read them."""

    def __init__(
        self,
        configuration: Configuration,
        store: VectorStore,
        found: Found,
        most_tokens: int,
        device: torch.device,
        longest: int = 1,
    ) -> None:
        """Make the tables, with the vectors of the store.

        Args:
            configuration: of the plugin.
            store: the vectors to begin with.
            found: the module that steers at each site; only the sites of the store are used.
            most_tokens: the most tokens of a step.
            device: of the model.
            longest: the most tokens of a request, for statistics.

        Raises:
            ValueError: a site at which this model cannot be steered.
        """
        missing = missing_sites(found, store.sites, store.num_layers - 1)
        if missing:
            names = ", ".join(f"{site.kind} of layer {site.layer}" for site in missing)
            raise ValueError(
                f"faststeer found no sum of the residual stream that it can steer at {names}"
            )
        self.sites = [site for site in store.sites if site in found.sites()]
        self.found = found
        count = len(store.vectors)
        capacity = configuration.capacity or max(8, 2 * count)
        self.slots = Slots(self.sites, store.hidden_size, max(capacity, count), device)
        for name, vector in store.vectors.items():
            self.slots.put(store.digests[name], self._here(vector))
        self.lines = Lines(len(self.sites), configuration.terms, device, self.slots.entries)
        self.batch = Batch(self.lines, most_tokens)
        sites = [Site(layer, "resid_post") for layer in configuration.capture]
        self.statistics: Statistics | None = None
        if sites:
            self.statistics = Statistics(
                [site.layer for site in sites if site in self.sites],  # of this pipeline stage
                store.hidden_size,
                configuration.capture_groups,
                longest,
                most_tokens,
                device,
            )
        # Of the requests that ask for anything, by id; all others cost nothing.
        self._timelines: dict[str, Timeline] = {}
        self._captures: dict[str, tuple[Sequence[Any], int]] = {}  # and the prompt's length
        self._tables: dict[Site, int] = {}  # of the sites that are steered by number
        self._changed = False  # since the last step, so that an id may be another request's

    def attach(
        self, weight_offset: Callable[[nn.Module], float], in_place: Callable[[nn.Module], bool]
    ) -> None:
        """Let the modules at the sites steer.

        Args:
            weight_offset: of a norm.
            in_place: whether a norm may overwrite its arguments.
        """
        outputs = [site for site in self.sites if site in self.found.outputs]
        layers = [site.layer for site in outputs if site.kind == "resid_post"]
        if layers:
            name = type(self.found.outputs[outputs[-1]]).__name__
            warnings.warn(
                f"{name} adds to the residual stream itself: steering it takes one more kernel at "
                f"each of {len(layers)} layers",
                FaststeerWarning,
                stacklevel=2,
            )
        for at, site in enumerate(self.sites):
            tensors = {
                "vectors": self.slots.vectors[at],
                "modes": self.slots.modes,
                "index": self.batch.index[at],
                "coefficient": self.batch.coefficient[at],
            }
            statistics = self.statistics
            if statistics and site.kind == "resid_post" and site.layer in statistics.rows:
                tensors |= statistics.tensors(site.layer)
            if site in self.found.norms:
                norm = self.found.norms[site]
                kind = SteeredNormInPlace if in_place(norm) else SteeredNorm
                table = make_steered(norm, kind, tensors, weight_offset(norm))
                if table is not None:
                    self._tables[site] = table
            else:
                make_steered(self.found.outputs[site], SteeredOutput, tensors)

    def prove(self, run: Callable[[int], Any]) -> None:
        """Prove on a dummy run that every site is steered. `run`: runs that many tokens, eagerly.

        Raises:
            RuntimeError: a site at which the stream is not what steering makes of it.
        """
        require_steering(self.sites, self._tables, self.slots, self.batch, run)

    def prove_compiled(self, run: Callable[[int], Tensor]) -> None:
        """Prove the same of the model as it serves. `run`: returns hidden states ``[N, H]``.

        Raises:
            RuntimeError: a site whose steering does not reach the output.
        """
        require_compiled_steering(self.sites, self.slots, self.batch, run)

    @property
    def graph_key(self) -> str:
        """What a compiled graph depends on: version, sites, numbers and shapes of the tables."""
        sites = [(site.layer, site.kind) for site in self.sites]
        shapes = [tuple(own.shape) for own in (self.slots.vectors, self.batch.index)]
        return f"{VERSION} {sites} {list(self._tables.values())} {shapes}"

    def add_request(
        self, request: str, extra_args: Mapping[str, Any] | None, prompt_length: int
    ) -> None:
        """Take a request that is new or comes back; an earlier one of the same id is forgotten.

        Args:
            request: its id.
            extra_args: its arguments, as `RequestChecks.checked` returns them.
            prompt_length: in tokens.
        """
        self.remove_request(request)
        given = extra_args or {}
        if wire := given.get(CHECKED_KEY):
            self._timelines[request] = timeline_of(wire, prompt_length)
        if capture := given.get(CHECKED_CAPTURE_KEY):
            self._captures[request] = capture, prompt_length

    def remove_request(self, request: str) -> None:
        """Forget a request that has finished or gone."""
        self._timelines.pop(request, None)
        self._captures.pop(request, None)
        self._changed = True

    def write(self, step: Step) -> None:
        """Write what the tokens of a step are steered with, and which of them are counted."""
        if self._timelines or self.batch.steered:
            self.batch.write(step, self._timelines, self._changed)
        if self.statistics is not None:
            self.statistics.write(step, self._captures)
        self._changed = False

    def put(self, digest: str, vector: SteeringVector, used: Sequence[str]) -> None:
        """Hold one more vector.

        Args:
            digest: of its content.
            vector: the directions.
            used: the digests that unfinished requests, or the store, still need. Of all others, the
                one that has been held longest makes room where there is none.

        Raises:
            ValueError: all places are in use; nothing has changed.
        """
        if digest not in self.slots and self.slots.full:
            unused = [held for held in self.slots.held if held not in used]
            if unused:
                self.slots.release(unused[0])
                self.lines.forget()
        self.slots.put(digest, self._here(vector))

    def _here(self, vector: SteeringVector) -> Mapping[Site, Tensor]:
        """Return the directions at the sites of this process."""
        found = {Site.of(layer, vector.site): own for layer, own in vector.directions.items()}
        return {site: own for site, own in found.items() if site in self.sites}
