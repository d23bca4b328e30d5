"""All that can be told of a vector with what there is: its file, a model, pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from typing import Any

from torch import Tensor, nn

from faststeer.data.datasets import FirstPairs
from faststeer.diagnostics.dose import relative_dose, residual_norms
from faststeer.diagnostics.lens import Lens, logit_lens
from faststeer.diagnostics.separability import auc, pair_projections
from faststeer.diagnostics.stability import cosines, cosines_between, halves
from faststeer.extraction.methods import METHODS
from faststeer.extraction.read_token import stated_read_token
from faststeer.models.decoders import find_blocks, find_known
from faststeer.steering.positions import Positions
from faststeer.vectors.arguments import require_fitting
from faststeer.vectors.steering_vector import SteeringVector


@dataclass(frozen=True)
class LayerFacts:
    """Of one layer; None where it takes a model or pairs to tell, NaN where a direction is zero.

    `residual_norm` is the median over tokens; `dose` is relative to it; `auc` is the vector's on
    all pairs; `held_out_auc` and `stability` are of vectors made of halves of the pairs.
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
    """What is known of a vector.

    `cosines` ``[L, L]`` are between its layers, `between` {(name, name): {layer: cosine}} of it and
    others; `missing` says what could not be told, and what it takes.
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

    def to_json(self) -> dict[str, Any]:
        """As what JSON can hold; NaN becomes null."""
        facts = {str(layer): asdict(own) for layer, own in self.layers.items()}
        between = [
            {"vectors": list(names), "cosine": {str(n): c for n, c in own.items()}}
            for names, own in self.between.items()
        ]
        whole = {
            "name": self.name,
            "site": self.site,
            "hidden_size": self.hidden_size,
            "metadata": dict(self.metadata),
            "coefficient": self.coefficient,
            "layers": facts,
            "cosine_between_layers": self.cosines.tolist(),
            "cosine_between_vectors": between,
            "missing": self.missing,
        }
        told: dict[str, Any] = _without_nan(whole)
        return told


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
) -> Inspection:
    """Norms and cosines of a vector; with a model its dose and logit lens; with pairs how well it
    tells them apart, and whether half of them would have given the same vector.

    Args:
        vector: directions v.
        model: the one it is for; without it, what needs one is left out.
        tokenizer: goes with the model.
        texts: where the residual stream's norms are measured; by default encyclopaedic prose.
        pairs: (positive, negative) texts, read several times. Whether the vector was made from
            them cannot be told; the held-out AUC is of halves that have not seen what they tell.
        others: vectors of other behaviours, to compare with.
        coefficient: c of the relative dose ``|c| * |v| / |h|``.
        read_token: as for `faststeer.extract`; by default what the vector's metadata state, or -1.
            Another token, or pairs from another chat template, give a `FaststeerWarning`.
        lens_tokens: tokens that each layer promotes, and suppresses.
        batch_size: texts of pairs a forward.
        max_length: texts are cut after so many tokens.
        add_special_tokens: passed to the tokenizer, for pairs.
        most_pairs: of more pairs the first are read; what was left out is said in `missing`.
        progress: show progress bars.

    Raises:
        TypeError: pairs that can be read only once.
        ValueError: pairs without a model, a model without a tokenizer, a vector of another hidden
            size, fewer than 4 pairs, vectors that cannot be compared, no tokens for the lens, or
            what `faststeer.extract` refuses.
    """
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
    if model is None:
        inspection.missing.append("dose and logit lens: they take a model")
    else:
        _with_model(inspection, vector, model, tokenizer, texts, lens_tokens, max_length)
    if model is None or pairs is None:
        inspection.missing.append("separability and stability: they take pairs")
        return inspection
    wanted: dict[str, Any] = {
        "read_token": stated_read_token(vector) if read_token is None else read_token,
        "batch_size": batch_size,
        "max_length": max_length,
        "add_special_tokens": add_special_tokens,
        "progress": progress,
    }
    method = str(vector.metadata.get("method"))
    if method not in METHODS or not METHODS[method].takes_pairs:
        inspection.missing.append(
            f"halves by the vector's own method ({vector.metadata.get('method', 'unknown')}): "
            "those shown are by mean_difference"
        )
        method = "mean_difference"
    pairs = FirstPairs(pairs, most_pairs)
    if told := pairs.left_out():
        inspection.missing.append(f"separability and stability of {told}")
    made = halves(
        model, tokenizer, pairs, layers=vector.layers, method=method, site=vector.site, **wanted
    )
    own, first, second = pair_projections(
        model, tokenizer, [vector, made.first, made.second], pairs, **wanted
    )
    held_out, stability = made.held_out_auc(first, second), made.stability()
    for layer, projected in own.items():
        inspection.layers[layer] = replace(
            inspection.layers[layer],
            auc=auc(projected[:, 0], projected[:, 1]),
            held_out_auc=held_out[layer],
            stability=stability[layer],
        )
    return inspection


def _with_model(
    inspection: Inspection,
    vector: SteeringVector,
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str] | None,
    lens_tokens: int,
    max_length: int | None,
) -> None:
    decoder, _ = find_known(model) or find_blocks(model)
    config: Any = decoder.config
    require_fitting(vector, int(config.hidden_size), "inspect")
    if texts is None:
        from faststeer.data.shipped import neutral_texts

        texts = neutral_texts()
    norms = residual_norms(
        model, tokenizer, texts, layers=vector.layers, site=vector.site, max_length=max_length
    )
    doses = relative_dose(vector, norms, inspection.coefficient)
    lenses: Mapping[int, Lens] = {}
    try:
        lenses = logit_lens(model, tokenizer, vector, lens_tokens)
    except ValueError as error:  # a decoder that is not known, a direction that is zero
        inspection.missing.append(f"logit lens: {error}")
    for layer, facts in inspection.layers.items():
        inspection.layers[layer] = replace(
            facts,
            residual_norm=float(norms[layer].median()),
            dose=doses[layer],
            lens=lenses.get(layer),
        )


def _between(vectors: Sequence[SteeringVector]) -> dict[tuple[str, str], dict[int, float]]:
    tables = cosines_between(vectors)
    names: list[str] = []
    for vector in vectors:
        name, number = vector.name, 2
        while name in names:  # as where the same behaviour was made twice
            name, number = f"{vector.name}-{number}", number + 1
        names.append(name)
    return {
        (names[i], names[j]): {layer: float(own[i, j]) for layer, own in tables.items()}
        for i, j in combinations(range(len(names)), 2)
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(own) for own in value]
    return value
