"""A setting as a file: which vectors steer and how, and how tokens are chosen. No vectors in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faststeer.play.asking import Sampling, Use
from faststeer.play.same_in_code import file_name
from faststeer.steering.conditions import Condition, TokenCondition, when
from faststeer.vectors.steering_vector import SteeringVector

KIND = "faststeer play setting"
MOST_BYTES = 1 << 20
_OF_CONDITION = ("above", "below", "each", "hysteresis")  # what `when` checks


@dataclass(frozen=True)
class Setting:
    """What the controls of the page say.

    Attributes:
        uses: by the number of the vector on the page; the others do not steer.
        max_new_tokens: the most tokens per answer.
        sampling: how tokens are chosen.
        model: the model that it was saved with.
    """

    uses: Mapping[int, Use]
    max_new_tokens: int
    sampling: Sampling
    model: str


def setting_to_json(
    model: str, uses: Sequence[Use], max_new_tokens: int, sampling: Sampling
) -> str:
    """Return a setting as a file's text; vectors are named, with a digest of their directions."""
    facts = {
        "kind": KIND,
        "model": model,
        "vectors": [
            {
                **_named(use.vector),
                "file": file_name(use.vector.name),
                "coefficient": use.coefficient,
                "layers": None if use.layers is None else list(use.layers),
                "positions": use.positions,
                "mode": use.mode,
                "when": None if use.when is None else _of_condition(use.when),
            }
            for use in uses
        ],
        "max_new_tokens": max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
    }
    return json.dumps(facts, indent=1) + "\n"


def read_setting(path: Path, vectors: Sequence[SteeringVector]) -> Setting:
    """Read the file of a setting, which is trusted in nothing.

    Args:
        path: a file as `setting_to_json` writes it.
        vectors: those of the page, of which the setting's are found by name and digest.

    Raises:
        ValueError: another kind of file, one that is damaged, or a vector that is not there; the
            message does not name the place on the server.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name}: is larger than a setting, which has 1 MB at most")
    try:
        facts = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested too deeply
        facts = None
    if not isinstance(facts, dict) or facts.get("kind") != KIND:
        raise ValueError(f'{path.name}: is not a setting; "Save the setting" writes one')
    try:
        return _read(facts, vectors)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path.name}: is damaged: {_described(error)}") from None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def digest(vector: SteeringVector) -> str:
    """Return what two vectors of equal directions, at equal layers of a site, have in common."""
    found = hashlib.sha256(vector.site.encode())
    for layer in vector.layers:
        found.update(f" {layer} ".encode())
        found.update(vector.directions[layer].detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def _named(vector: SteeringVector) -> dict[str, str]:
    return {"vector": vector.name, "digest": digest(vector)}


def _of_condition(condition: Condition) -> dict[str, Any]:
    sign = "above" if condition.above else "below"
    facts = {"layer": condition.site.layer, sign: condition.threshold, "each": "prompt"}
    if isinstance(condition, TokenCondition):
        facts |= {"each": "token", "hysteresis": condition.hysteresis}
    return {**_named(condition.vector), **facts}


def _read(facts: Mapping[str, Any], vectors: Sequence[SteeringVector]) -> Setting:
    find = _finder(vectors)
    uses: dict[int, Use] = {}
    for own in _typed(facts, "vectors", list):
        if not isinstance(own, dict):
            raise TypeError(f"a vector is {own!r}; expected dict")
        number = find(own, uses)
        condition = _typed(own, "when", dict, type(None))
        if condition is not None:
            decides = vectors[find(condition, ())]
            more = {key: condition[key] for key in _OF_CONDITION if key in condition}
            condition = when(decides, layer=_typed(condition, "layer", int), **more)
        layers = _typed(own, "layers", list)
        if not layers or any(type(layer) is not int for layer in layers):
            raise TypeError(f"layers are {layers!r}; expected whole numbers")
        uses[number] = Use(
            vectors[number],
            _typed(own, "coefficient", int, float),
            tuple(layers),
            _typed(own, "positions", str, type(None)),
            _typed(own, "mode", str),
            condition,
        )
        uses[number].require_valid()
    sampling = Sampling(
        _typed(facts, "temperature", int, float),
        _typed(facts, "top_p", int, float),
        _typed(facts, "seed", int),
    )
    return Setting(
        uses, _typed(facts, "max_new_tokens", int), sampling, _typed(facts, "model", str)
    )


def _finder(
    vectors: Sequence[SteeringVector],
) -> Callable[[Mapping[str, Any], Container[int]], int]:
    digests = [digest(vector) for vector in vectors]

    def find(wanted: Mapping[str, Any], taken: Container[int]) -> int:
        """Return the number of a vector of the page that is not taken yet."""
        name, own = _typed(wanted, "vector", str), _typed(wanted, "digest", str)
        for number, other in enumerate(digests):
            if other == own and number not in taken:
                return number
        if any(vector.name == name for vector in vectors):
            raise ValueError(
                f"the vector {name!r} of this page is not the setting's; add the file that was "
                "saved with it"
            )
        raise ValueError(f"needs the vector {name!r}; add its file {file_name(name)} first")

    return find


def _typed(facts: Mapping[str, Any], key: str, *kinds: type) -> Any:
    """Return a value. Raises KeyError where it is missing, TypeError for one of another type."""
    value = facts[key]
    if type(value) not in kinds:
        expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise TypeError(f"{key} is {value!r}; expected {expected}")
    return value


def _described(error: KeyError | TypeError) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
