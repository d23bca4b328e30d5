"""The card of a vector on the hub: how it was made, its dose, its measured effect and its use.

What the vector's metadata do not state, the card reports as not stated or not measured.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from faststeer.utils.version import VERSION
from faststeer.vectors.formats.vector_data import VectorData
from faststeer.vectors.layer_text import layers_text

TAGS = ["steering-vector", "activation-steering"]
_REQUIRED = {
    "model": "model",
    "fingerprint": "fingerprint of its weights",
    "method": "method",
    "read_token": "read token",
}
_LABELS = {
    "model_type": "model's type",
    "num_layers": "model's layers",
    "positives": "positive texts",
    "negatives": "negative texts",
    "template": "chat template",
    "faststeer": "made with faststeer",
}
_USE = {
    "mode": "add",
    "floor": None,
    "ceiling": None,
    "positions": "all",
    "layers": None,
    "coefficient": None,
}
_TUNED = "tuned"  # the key under which `faststeer.tune` states what it measured
_DAMAGE = {
    "kl": "KL divergence to the unsteered model on neutral text (nats)",
    "perplexity_ratio": "perplexity of neutral text, times that of the unsteered model",
    "lost_tokens": "right next tokens lost, as a share",
    "budget": "budget of damage",
    "texts": "neutral texts",
}
_EFFECT = {
    "interval": "95 % interval over the items",
    "random": "effect of random directions of the same norm",
    "times_random": "times the effect of random directions",
    "dose": "dose, relative to the residual stream's median norm",
}
_NOT_MEASURED = "Not measured."


def card_text(
    vector: VectorData,
    repo_id: str,
    *,
    sha256: str,
    picture: str | None,
    license: str | None,
    base_model: str | None,
) -> str:
    """Return the README.md of a vector's repository, with its metadata for the hub in front.

    Args:
        vector: the vector; its metadata are what the card reports.
        repo_id: the repository, as ``user/vector``.
        sha256: of the vector's file.
        picture: the image's file name in the repository; None where there is none.
        license: as the hub names it, such as "apache-2.0"; left out where it is None.
        base_model: the model's name on the hub; left out where it is None.
    """
    from huggingface_hub import ModelCardData

    front = ModelCardData(
        base_model=base_model, library_name="faststeer", license=license, tags=list(TAGS)
    ).to_yaml()
    size = next(iter(vector.directions.values())).numel()
    about = (
        f"A steering vector for {_text(base_model or vector.metadata.get('model', 'a model'))}: "
        f"{layers_text(vector.directions)} at {vector.site}, hidden size {size}."
    )
    parts = [
        f"# {_text(vector.name)}",
        about,
        _image(picture),
        "## How it was made",
        _provenance(vector),
        "## How it is to be used",
        _stated_use(vector.metadata),
        _code(vector, repo_id, sha256, base_model),
        "## Dose",
        _dose(vector),
        *_measured(vector.metadata.get(_TUNED)),
    ]
    return f"---\n{front.strip()}\n---\n\n" + "\n\n".join(parts) + "\n"


def _image(picture: str | None) -> str:
    if picture is None:
        return "No picture: matplotlib was not installed where this card was written."
    return f"![{'norm of the vector by layer' if picture == 'norms.png' else 'picture'}]({picture})"


def _provenance(vector: VectorData) -> str:
    metadata = vector.metadata
    rows: list[Sequence[Any]] = [
        (label, metadata.get(key, "not stated")) for key, label in _REQUIRED.items()
    ]
    hidden = {*_REQUIRED, *_USE, _TUNED}
    others = {key: value for key, value in metadata.items() if key not in hidden}
    rows += [(_LABELS.get(key, key), value) for key, value in _flat(others)]
    return _table(("fact", "value"), [*rows, ("card written by faststeer", VERSION)])


def _stated_use(metadata: Mapping[str, Any]) -> str:
    rows = []
    for key, default in _USE.items():
        unstated = "not stated" if default is None else f"not stated; {default} is the default"
        rows.append((key, metadata.get(key, unstated)))
    return _table(("stated", "value"), rows)


def _code(vector: VectorData, repo_id: str, sha256: str, base_model: str | None) -> str:
    """Return how to load and use the vector in Python and on the command line."""
    model = base_model or str(vector.metadata.get("model", "MODEL"))
    layers = sorted(vector.directions)
    example = layers[len(layers) // 2]
    chosen = len(layers) > 1 and "layers" not in vector.metadata
    tuned = "coefficient" in vector.metadata
    arguments = (f", layers={example}" if chosen else "") + ("" if tuned else ", coefficient=1.0")
    settings = (f":layer={example}" if chosen else "") + ("" if tuned else ":coefficient=1.0")
    values = [
        name for name, own in ((f"layer {example}", chosen), ("coefficient 1", not tuned)) if own
    ]
    note = f"The vector does not state {' and '.join(values)}: examples, not measured to be good."
    file = f"{repo_id.rpartition('/')[-1]}.safetensors"
    return f"""\
```python
from faststeer import SteeringVector, patch
from faststeer.models import continuations, load

vector = SteeringVector.from_pretrained({json.dumps(repo_id)}, sha256={json.dumps(sha256)})
loaded = load({json.dumps(model, ensure_ascii=False)})
with patch(loaded.model) as patched:  # undone exactly on exit
    patched.steer(vector{arguments})
    print(*continuations(loaded.model, loaded.tokenizer, ["The hotel was"], 16))
```

```bash
faststeer pull {repo_id} --sha256 {sha256} --output {file}
faststeer generate --model {shlex.quote(model)} --steer {file}{settings} --prompt "The hotel was"
```

`revision=` and `--revision` take a commit of this repository.{f" {note}" if values else ""}"""


def _dose(vector: VectorData) -> str:
    """Return the norms, and the dose of the tuned setting."""
    tuned = vector.metadata.get(_TUNED)
    relative = tuned.get("dose") if isinstance(tuned, Mapping) else None
    rows = [(layer, float(vector.directions[layer].norm())) for layer in sorted(vector.directions)]
    about = (
        "not stated; `faststeer inspect FILE --model MODEL` measures it"
        if relative is None
        else f"{_text(relative)} of its median, for the stated layers and coefficient together"
    )
    norms = _table(("layer", "norm"), rows)
    return f"Norms at coefficient 1. Relative to the residual stream's: {about}.\n\n{norms}"


def _measured(tuned: Any) -> list[str]:
    """Return the sections on effect and damage, of the metadata that tuning writes."""
    facts = list(_flat(tuned)) if isinstance(tuned, Mapping) else []
    effect: list[tuple[str, Any]] = []
    damage: list[tuple[str, Any]] = []
    for name, value in facts:
        key = name.partition(".")[0]
        rows = damage if key in _DAMAGE else effect
        label = _DAMAGE.get(key, _EFFECT.get(key, key))
        rows.append((label + name.removeprefix(key).replace(".", ", "), value))
    sections = []
    for heading, rows in (("## Measured effect", effect), ("## Damage to other text", damage)):
        sections += [heading, _table(("figure", "value"), rows) if rows else _NOT_MEASURED]
    return sections


def _flat(facts: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Iterate over facts; those inside a mapping have its name before theirs.

    Of a mapping by layer only the number of layers is a fact: the file has the rest.
    """
    for key, value in facts.items():
        if isinstance(value, Mapping) and all(str(inner).isdigit() for inner in value):
            yield f"{prefix}{key}", f"of {len(value)} layers, in the file"
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _text(value: Any) -> str:
    """Return a value as one line of Markdown that is shown as it is."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    words = " ".join(str(value).split())
    return "".join(f"\\{letter}" if letter in "\\`*[]<>|" else letter for letter in words)
