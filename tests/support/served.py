"""Vectors, terms and a batch as the engine's plugin has them, on small sizes."""

from __future__ import annotations

import torch
from torch import Tensor

from faststeer import SteeringVector
from faststeer.vectors.sites import Site
from faststeer.vllm.batch import Batch
from faststeer.vllm.lines import Lines
from faststeer.vllm.slots import Slots
from faststeer.vllm.terms import Term
from faststeer.vllm.vector_store import VectorStore

HIDDEN, LAYERS, COLUMNS = 8, 4, 6


def make_store() -> VectorStore:
    """Return a store of three vectors of different sites."""
    store = VectorStore(HIDDEN, LAYERS)
    generator = torch.Generator().manual_seed(0)
    for name, layers, site in (
        ("one", (1,), "resid_post"),
        ("three", (0, 1, 3), "resid_post"),
        ("mid", (1, 2), "resid_mid"),
    ):
        directions = {layer: torch.randn(HIDDEN, generator=generator) for layer in layers}
        store.put(name, SteeringVector(name, directions, site))
    store.start()
    return store


def make_slots(store: VectorStore, capacity: int = 4) -> Slots:
    """Return slots that hold the vectors of a store."""
    slots = Slots(store.sites, HIDDEN, capacity, torch.device("cpu"))
    for name, vector in store.vectors.items():
        sites = {Site.of(layer, vector.site): own for layer, own in vector.directions.items()}
        slots.put(store.digests[name], sites)
    return slots


def make_batch(slots: Slots, tokens: int = 256) -> Batch:
    """Return a batch of which no token is steered yet."""
    lines = Lines(len(slots.sites), COLUMNS, torch.device("cpu"), slots.entries)
    return Batch(lines, tokens)


def expected(store: VectorStore, site: Site, active: list[Term], h: Tensor) -> Tensor:
    """Return one token ``[H]`` steered by terms, in float64, as `Patched.steer` defines it."""
    vectors = {store.digests[name]: own for name, own in store.vectors.items()}
    h = h.double()
    before = h.norm()
    here = [
        (term, vectors[term.digest].directions[layer].double(), coefficient)
        for term in active
        for layer, coefficient in term.coefficients
        if Site.of(layer, term.site) == site
    ]
    for term, direction, coefficient in here:
        if term.mode == "add":
            h = h + coefficient * direction
    for term, direction, coefficient in here:
        unit = direction / direction.norm()
        if term.mode == "project":
            h = h - coefficient * (h @ unit) * unit
        elif term.mode == "clamp":
            h = h + (coefficient - h @ unit) * unit
        elif term.mode == "floor":
            h = h + (coefficient - h @ unit).clamp(min=0) * unit
        elif term.mode == "ceiling":
            h = h + (coefficient - h @ unit).clamp(max=0) * unit
    if any(term.keep_norm for term, _, _ in here):
        h = h * before / h.norm()
    return h
