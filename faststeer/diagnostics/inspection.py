"""Inspection of a vector: every diagnostic that its file, a model and pairs allow."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import combinations
from typing import Any

from torch import Tensor, nn

from faststeer.data.datasets import FirstPairs
from faststeer.diagnostics.dose import relative_dose, residual_norms
from faststeer.diagnostics.lens import Lens, logit_lens
from faststeer.diagnostics.separability import pair_projections
from faststeer.diagnostics.similarity import cosines, cosines_between
from faststeer.diagnostics.stability import halves
from faststeer.diagnostics.token_text import show_spaces
from faststeer.extraction.auc import auc
from faststeer.extraction.cache_files import Cache
from faststeer.extraction.confounds import confounds
from faststeer.extraction.methods import METHODS
from faststeer.extraction.read_token import stated_read_token
from faststeer.models.decoders import find_blocks, find_known
from faststeer.steering.positions import Positions
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.arguments import require_fitting, require_several
from faststeer.vectors.steering_vector import SteeringVector


@dataclass(frozen=True)
class LayerFacts:
    """Diagnostics of one layer; None if not computed, NaN where a direction is zero.

    `norm` is the Euclidean norm of the direction and `residual_norm` the median over tokens of the
    residual stream's; `dose` is relative to it. `auc` is the vector's on all pairs; `held_out_auc`
    and `stability` belong to vectors made of halves of the pairs.
    """

    norm: float
    residual_norm: float | None = None
    dose: float | None = None
    auc: float | None = None
    held_out_auc: float | None = None
    stability: float | None = None
    lens: Lens | None = None


@dataclass(frozen=True)
class Inspection:
    """The diagnostics of a vector.

    `cosines` ``[L, L]`` are those between its layers, and `between` maps the names of two vectors
    to {layer: cosine}. `missing` lists what was not computed and what would be needed. `confounds`
    names how the sides of the pairs differ besides their meaning.
    """

    name: str
    site: str
    hidden_size: int
    metadata: Mapping[str, Any]
    coefficient: float
    layers: dict[int, LayerFacts]
    cosines: Tensor
    between: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    confounds: list[str] = field(default_factory=list)

    def records(self) -> list[dict[str, Any]]:
        """Return a flat dict per layer: ``pandas.DataFrame(inspection.records())``.

        Keys are "vector", "site", "layer", "coefficient" and those of `LayerFacts`, with the tokens
        of the logit lens as texts under "promoted" and "suppressed", where ``␣`` is a space.
        """
        return [
            {
                "vector": self.name,
                "site": self.site,
                "layer": layer,
                "coefficient": self.coefficient,
                **{one.name: getattr(own, one.name) for one in fields(own) if one.name != "lens"},
                **_lens_texts(own.lens),
            }
            for layer, own in self.layers.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values; NaN becomes None."""
        facts = {str(layer): asdict(own) for layer, own in self.layers.items()}
        between = [
            {"vectors": list(names), "cosine": {str(n): c for n, c in by_layer.items()}}
            for names, by_layer in self.between.items()
        ]
        content = {
            "name": self.name,
            "site": self.site,
            "hidden_size": self.hidden_size,
            "metadata": dict(self.metadata),
            "coefficient": self.coefficient,
            "layers": facts,
            "cosine_between_layers": self.cosines.tolist(),
            "cosine_between_vectors": between,
            "missing": self.missing,
            "confounds": self.confounds,
        }
        found: dict[str, Any] = _without_nan(content)
        return found


def _lens_texts(lens: Lens | None) -> dict[str, str | None]:
    """Return the tokens of a logit lens as two texts, most promoted or suppressed first."""
    if lens is None:
        return {"promoted": None, "suppressed": None}
    sides = {"promoted": lens.promoted, "suppressed": lens.suppressed}
    return {
        name: " ".join(show_spaces(text) for _, text, _ in side) for name, side in sides.items()
    }


def inspect(
    vector: SteeringVector,
    model: nn.Module | None = None,
    tokenizer: Any = None,
    *,
    texts: Sequence[str] | None = None,
    pairs: Iterable[tuple[str, str]] | None = None,
    others: Sequence[SteeringVector] = (),
    coefficient: float = 1.0,
    read_token: int | Positions | None = None,
    lens_tokens: int = 5,
    batch_size: int = 16,
    max_length: int | None = None,
    add_special_tokens: bool = True,
    most_pairs: int = 200,
    progress: bool = True,
    cache: Cache = False,
) -> Inspection:
    """Compute all diagnostics of a vector that the arguments allow.

    Norms and cosines need the vector alone; dose and logit lens need a model; separability and the
    stability of the vector under halving need a model and pairs.

    Args:
        vector: directions v.
        model: the model that the vector was made for.
        tokenizer: the model's tokenizer.
        texts: texts on which the residual stream's norms are measured; by default encyclopaedic
            prose.
        pairs: (positive, negative) texts, read several times. If the vector was made from them its
            AUC is too high; the held-out AUC is that of each half's vector on the other half.
        others: vectors of other behaviours, to compare with.
        coefficient: c of the relative dose ``|c| * |v| / |h|``.
        read_token: as for `faststeer.extract`; by default the one that the vector states, or -1.
            Another token, or pairs from another chat template, give a `FaststeerWarning`.
        lens_tokens: number of promoted, and of suppressed, tokens per layer.
        batch_size: texts of pairs per forward pass.
        max_length: texts are truncated to this many tokens.
        add_special_tokens: passed to the tokenizer, for pairs.
        most_pairs: only the first pairs up to this number are read; `missing` reports the others.
        progress: show progress bars.
        cache: as for `faststeer.extract`; norms are kept, too.

    Raises:
        TypeError: pairs that can be read only once.
        ValueError: pairs without a model, a model without a tokenizer, a vector of another hidden
            size, fewer than 4 pairs, vectors that cannot be compared, no tokens for the lens, and
            as `faststeer.extract`.
    """
    require_several(others, "others")
    if model is None and (pairs is not None or texts is not None):
        raise ValueError("pairs and texts are read by a model; give it, with its tokenizer")
    if model is not None and tokenizer is None:
        raise ValueError("a model was given without its tokenizer")
    if lens_tokens < 1:
        raise ValueError(f"lens_tokens is {lens_tokens}; expected at least 1")
    inspection = Inspection(
        vector.name,
        vector.site,
        vector.hidden_size,
        vector.metadata,
        coefficient,
        {layer: LayerFacts(norm) for layer, norm in vector.norms().items()},
        cosines(vector),
        _between([vector, *others]) if others else {},
    )
    reading: dict[str, Any] = {"max_length": max_length, "cache": cache}
    if model is None:
        inspection.missing.append("dose and logit lens: these need a model")
    else:
        _add_dose_and_lens(inspection, vector, model, tokenizer, texts, lens_tokens, reading)
    if model is None or pairs is None:
        inspection.missing.append("separability and stability: these need pairs")
        return inspection
    encoding: dict[str, Any] = {
        "read_token": stated_read_token(vector) if read_token is None else read_token,
        "max_length": max_length,
        "add_special_tokens": add_special_tokens,
    }
    options = encoding | {"batch_size": batch_size, "progress": progress, "cache": cache}
    method = str(vector.metadata.get("method"))
    if method not in METHODS or not METHODS[method].takes_pairs:
        inspection.missing.append(
            f"halves by the vector's own method ({vector.metadata.get('method', 'unknown')}): "
            "those shown are by mean_difference"
        )
        method = "mean_difference"
    pairs = FirstPairs(pairs, most_pairs)
    if left_out := pairs.left_out():
        inspection.missing.append(f"separability and stability of {left_out}")
    if vector.metadata.get("match_endings"):
        inspection.missing.append(
            "pairs with matched endings, of which the vector was made: those read here are whole"
        )
    inspection.confounds.extend(confounds(model, tokenizer, pairs, **encoding))
    with warnings.catch_warnings():  # of each half; those of all pairs follow
        warnings.filterwarnings("ignore", "confound: |attention sinks: ", FaststeerWarning)
        made = halves(
            model,
            tokenizer,
            pairs,
            layers=vector.layers,
            method=method,
            site=vector.site,
            **options,
        )
    projections, first, second = pair_projections(
        model, tokenizer, [vector, made.first, made.second], pairs, **options
    )
    held_out, stability = made.held_out_auc(first, second), made.stability()
    for layer, projected in projections.items():
        inspection.layers[layer] = replace(
            inspection.layers[layer],
            auc=auc(projected[:, 0], projected[:, 1]),
            held_out_auc=held_out[layer],
            stability=stability[layer],
        )
    return inspection


def _add_dose_and_lens(
    inspection: Inspection,
    vector: SteeringVector,
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str] | None,
    lens_tokens: int,
    reading: Mapping[str, Any],
) -> None:
    decoder, _ = find_known(model) or find_blocks(model)
    config: Any = decoder.config
    require_fitting(vector, int(config.hidden_size), "inspect")
    if texts is None:
        from faststeer.data.shipped import neutral_texts

        texts = neutral_texts()
    norms = residual_norms(
        model, tokenizer, texts, layers=vector.layers, site=vector.site, **reading
    )
    doses = relative_dose(vector, norms, inspection.coefficient)
    lenses: Mapping[int, Lens] = {}
    try:
        lenses = logit_lens(model, tokenizer, vector, lens_tokens)
    except ValueError as error:  # a decoder of an unknown family, a direction that is zero
        inspection.missing.append(f"logit lens: {error}")
    for layer, facts in inspection.layers.items():
        inspection.layers[layer] = replace(
            facts,
            residual_norm=float(norms[layer].median()),
            dose=doses[layer],
            lens=lenses.get(layer),
        )


def _between(vectors: Sequence[SteeringVector]) -> dict[tuple[str, str], dict[int, float]]:
    """Return the cosines of every two vectors by layer, under names made unique by a number."""
    by_layer = cosines_between(vectors)
    names: list[str] = []
    for vector in vectors:
        name, number = vector.name, 2
        while name in names:  # such as the same behaviour, extracted twice
            name, number = f"{vector.name}-{number}", number + 1
        names.append(name)
    return {
        (names[i], names[j]): {layer: float(matrix[i, j]) for layer, matrix in by_layer.items()}
        for i, j in combinations(range(len(names)), 2)
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return value
