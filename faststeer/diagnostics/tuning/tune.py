"""`tune`: from items to layers and coefficients, under a budget of damage to neutral text."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import nn

from faststeer.diagnostics.dose import residual_norms
from faststeer.diagnostics.tuning.arguments import (
    by_name,
    candidate_layers,
    neutral_parts,
    require_addition,
    require_steerable,
)
from faststeer.diagnostics.tuning.budget import Budget
from faststeer.diagnostics.tuning.choice_warnings import warn_of_generated, warn_of_the_choice
from faststeer.diagnostics.tuning.front import Front
from faststeer.diagnostics.tuning.joint import tune_together
from faststeer.diagnostics.tuning.layer_choice import PlaceEffect, best_alone, predict
from faststeer.diagnostics.tuning.parts import Part, Setting, in_texts
from faststeer.diagnostics.tuning.result import Tuned
from faststeer.diagnostics.tuning.search import best_within, strongest
from faststeer.diagnostics.tuning.slopes import Place
from faststeer.diagnostics.tuning.sources import Reader, Source, Tuning
from faststeer.evaluate.next_token import ScoredTexts
from faststeer.evaluate.tasks import Subject
from faststeer.models.text_calls import evaluating
from faststeer.patching.patch import temporarily_patched
from faststeer.utils.progress import Advance, progress_bar
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.arguments import Layers
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.steering_vector import SteeringVector

_log = logging.getLogger(__name__)

_TEXT_TOKENS = 64


@dataclass(frozen=True)
class _Search:
    """The sizes of a search, and what it draws from."""

    budget: Budget
    tried: int
    max_layers: int
    seed: int


def tune(
    model: nn.Module,
    tokenizer: Any,
    items: Source | Mapping[str, Source],
    vector: SteeringVector | Mapping[str, SteeringVector] | None = None,
    *,
    kl: float | None = None,
    perplexity: float | None = None,
    lost: float | None = None,
    layers: Layers = None,
    opposite: bool = False,
    max_layers: int = 1,
    tried: int = 3,
    randoms: int = 8,
    texts: Sequence[str] | None = None,
    max_items: int = 64,
    max_length: int = 128,
    batch_size: int = 8,
    at_once: int = 8,
    seed: int = 0,
    extraction: Mapping[str, Any] | None = None,
    progress: bool = False,
    **unknown: NoReturn,
) -> Tuned:
    """Find the layers and coefficients at which vectors do most within a budget of damage.

    Exact gradients of the coefficients tell, from one backward pass per text, how strong every
    layer may be within the budget. All are tried at that, the best of them are measured, and their
    coefficients searched for. Items and neutral texts are split: on one part the setting is chosen,
    and on the other one it is measured, with 95 % intervals, other strengths, the next best layers
    and random directions of the same norm. Several vectors are tuned together, for the greatest
    product of their effects.

    Args:
        model: a causal model that `patch` accepts, patched or not; its other steering is off.
        tokenizer: its tokenizer.
        items: what is to be moved: pairs of texts (the effect is how much likelier a token of the
            positive text becomes beside one of the negative, of the tokens that the other text
            has not after the beginning that both share); or
            `OpenPrompt`, `Choice` or the held-out prompts of a `Behaviour` (the log of the ratio of
            the probabilities of the two sides); a `Trait`, whose validation part is chosen on and
            whose test part is measured on; or a function ``(model, tokenizer) -> [N]`` of scores,
            the higher the better, which is called once per setting. A mapping of names to these
            for several vectors.
        vector: the vector that is tuned, or {name: vector}. Without it one is extracted from the
            items' pairs; each half of them is then measured under the vector of the other half.
        kl: the budget: KL(unsteered || steered) of the next token on neutral text, nats. Default,
            where no other limit is given: 0.1.
        perplexity: the same in multiples of the unsteered perplexity, such as 1.2.
        lost: the same in the share of right next tokens that are lost, such as 0.05.
        layers: those that are tried. Default: the vector's between a fifth and 92 % of the depth.
        opposite: steer towards the negative side. Coefficients are then below 0, those of several
            places mostly so: together, one may hold back what another does to neutral text.
        max_layers: layers per vector; of more than one, the coefficients are tuned together.
        tried: layers that are measured, per vector.
        randoms: random directions of the same norm, at the chosen layers.
        texts: neutral texts, at least 4, of which every third is chosen on. Default: shipped
            encyclopaedic prose.
        max_items: of each vector, half of them to choose on.
        max_length: texts are truncated to this many tokens, neutral ones to 64 at most.
        batch_size: texts per forward pass and setting.
        at_once: settings per forward pass.
        seed: of the split, the drawn tokens and the random directions.
        extraction: arguments of `faststeer.extract`, such as ``{"method": "logistic_probe"}``.
        progress: show a progress bar of measurements; how many there will be is not known.
        unknown: nothing; other keywords are refused.

    Raises:
        TypeError: items or a vector of another kind.
        ValueError: too few items or texts, a budget that nothing keeps to, vectors and items of
            different names, a vector that steers nothing by adding, a layer that a vector lacks,
            or as `extract` and `Patched.steer`.
    """
    refuse_unknown("tune", unknown, "layers")
    if kl is None and perplexity is None and lost is None:
        kl = 0.1
    search = _Search(Budget(kl, perplexity, lost), tried, max_layers, seed)
    sizes = {"max_layers": max_layers, "tried": tried, "randoms": randoms, "max_items": max_items}
    for name, value in sizes.items():
        least = 4 if name == "max_items" else 1
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")
    neutral = neutral_parts(texts)
    sources, vectors = by_name(items, vector)
    reader = Reader(model, tokenizer, dict(extraction or {}), max_length, seed, max_items, progress)
    with temporarily_patched(model) as patched, evaluating(model), torch.inference_mode(False):
        require_steerable(patched)
        with patched.off():
            tunings = [reader.tuning(name, vectors.get(name), own) for name, own in sources.items()]
            warn_of_generated(tunings)
            for tuning in tunings:
                require_addition(tuning.vector)
            candidates = [
                candidate_layers(one.vector, layers, patched.num_layers) for one in tunings
            ]
            norms = _stream_norms(model, tokenizer, tunings, neutral[0])
        subject = Subject(patched, model, tokenizer, batch_size, at_once)
        limit = min(max_length, _TEXT_TOKENS)
        chosen_on, measured_on = (ScoredTexts(model, tokenizer, own, limit) for own in neutral)
        sign = -1.0 if opposite else 1.0
        _log.info("trying %s layers", "/".join(str(len(own)) for own in candidates))
        with progress_bar("tuning", None, progress) as advance:
            choosing = _part(True, subject, tunings, chosen_on, sign, advance)
            setting, others = _choose(choosing, search, tunings, candidates, norms)
            if any(own.vector is not own.for_choosing for own in tunings):
                final = replace(choosing, vectors=[in_texts(own.vector) for own in tunings])
                setting = _weakened(final, search.budget, setting)
            measuring = _part(False, subject, tunings, measured_on, sign, advance)
            _log.info("measuring the setting, beside %d random directions", randoms)
            front = Front(measuring, search.budget, norms, randoms, seed)
            found = front.measured(tunings, setting, others)
    warn_of_the_choice(found, search.budget)
    return found


def _stream_norms(
    model: nn.Module, tokenizer: Any, tunings: Sequence[Tuning], texts: Sequence[str]
) -> dict[str, dict[int, float]]:
    """Return the stream's median norm per layer at each vector's site, by vector."""
    by_site: dict[str, dict[int, float]] = {}
    for site in {tuning.vector.site for tuning in tunings}:
        with warnings.catch_warnings():  # the texts are cut to this length on purpose
            warnings.simplefilter("ignore", FaststeerWarning)
            found = residual_norms(model, tokenizer, texts[:4], site=site, max_length=_TEXT_TOKENS)
        by_site[site] = {layer: float(norms.median()) for layer, norms in found.items()}
    return {tuning.name: by_site[tuning.vector.site] for tuning in tunings}


def _part(
    choosing: bool,
    subject: Subject,
    tunings: Sequence[Tuning],
    texts: ScoredTexts,
    sign: float,
    advance: Advance,
) -> Part:
    return Part(
        subject,
        [own.name for own in tunings],
        [in_texts(own.for_choosing if choosing else own.for_measuring) for own in tunings],
        [own.choosing if choosing else own.measuring for own in tunings],
        texts,
        sign,
        advance,
    )


def _choose(
    part: Part,
    search: _Search,
    tunings: Sequence[Tuning],
    candidates: Sequence[Sequence[int]],
    norms: Mapping[str, Mapping[int, float]],
) -> tuple[Setting, list[Setting]]:
    """Return the best setting, and the next best layers' of a single vector."""
    best: list[PlaceEffect] = []
    others: list[Setting] = []
    for number, layers in enumerate(candidates):
        own = part.only(number)
        places = [Place(0, layer) for layer in layers]
        screening = replace(own, objectives=[tunings[number].screening])
        stream = norms[tunings[number].name]
        predictions = predict(screening, search.budget, places, stream, search.seed)
        tried = predictions[: max(search.tried, search.max_layers)]
        most = sorted(one.place.layer for one in tried)
        _log.info("searching the coefficient at layers %s", ", ".join(map(str, most)))
        with own.steered([most]):
            alone = best_alone(own, search.budget, tried, stream)
        kept = alone[: search.max_layers]
        best += [replace(a, place=Place(number, a.place.layer)) for a in kept]
        if len(candidates) == 1:
            others = [{a.place: part.sign * a.coefficient} for a in alone[search.max_layers :]]
    if len(best) == 1:
        return {best[0].place: part.sign * best[0].coefficient}, others
    at = [[a.place.layer for a in best if a.place.vector == n] for n in range(len(candidates))]
    with part.steered([sorted(own) for own in at]):
        return tune_together(part, search.budget, best, search.seed), others


def _weakened(part: Part, budget: Budget, setting: Setting) -> Setting:
    """Return a setting of other vectors, weakened where it is beyond the budget with these."""

    def used(asked: list[tuple[int, float]]) -> list[float]:
        scaled = [{place: scale * c for place, c in setting.items()} for _, scale in asked]
        return part.used(budget, scaled)

    at = [[p.layer for p in setting if p.vector == n] for n in range(len(part.vectors))]
    with part.steered(at):
        scale = best_within(strongest(used, [1.0], 3)[0])
    if scale is None:
        raise ValueError(f"no coefficient that was tried keeps to the budget ({budget})")
    return {place: min(scale, 1.0) * c for place, c in setting.items()}
