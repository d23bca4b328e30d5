"""Round trips of vectors through steering-vectors and repeng, with equal steering there."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faststeer import SteeringVector, patch
from faststeer.data.batches import Batch, left_padded
from faststeer.diagnostics.bench.tolerance import rms
from faststeer.models.inference import logits

Record = dict[str, Any]

# As a share of the effect of steering, in float32.
LIMIT = 1e-4
LAYERS = (1, 2)
COEFFICIENT = -1.5


def compare(model: nn.Module) -> Iterator[Record]:
    """Yield each check with its library, the difference and whether it counts as equal.

    Objects and files have to be restored bit for bit. Logits show where they steer: the difference
    from ours is in units of the root mean square of the change made by steering.
    """
    config: Any = model.config
    draw = torch.Generator().manual_seed(0)
    directions = {layer: torch.randn(config.hidden_size, generator=draw) for layer in LAYERS}
    vector = SteeringVector("v", directions, metadata={"model_type": config.model_type})
    yield from _repeng(model, vector)
    yield from _steering_vectors(model, vector)


def _repeng(model: nn.Module, vector: SteeringVector) -> Iterator[Record]:
    from repeng import ControlModel, ControlVector

    theirs = vector.to_object("repeng")
    yield _record("repeng", "object and back", _apart(SteeringVector.from_object(theirs), vector))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "theirs.gguf"
        theirs.export_gguf(file)
        loaded = SteeringVector.load(file)
        same = loaded.metadata["model_type"] == theirs.model_type
        yield _record("repeng", "its GGUF read", _apart(loaded, vector) if same else torch.inf)
        vector.save(file)
        equal = ControlVector.import_gguf(file) == theirs
        yield _record("repeng", "our GGUF read by it", 0.0 if equal else torch.inf)
        from_file = ControlVector.import_gguf(file)

    def steer(copied: nn.Module) -> nn.Module:
        steered: nn.Module = ControlModel(copied, list(LAYERS))
        steered.set_control(from_file, COEFFICIENT)
        return steered

    yield _record("repeng", "our GGUF steers", _distance(model, vector, steer))


def _steering_vectors(model: nn.Module, vector: SteeringVector) -> Iterator[Record]:
    from steering_vectors import SteeringVector as Theirs

    for site in ("resid_post", "resid_mid"):
        ours = SteeringVector("v", vector.directions, site)
        theirs = ours.to_object("steering-vectors")
        back = SteeringVector.from_object(theirs)
        apart = _apart(back, ours) if back.site == site else torch.inf
        yield _record("steering-vectors", f"{site}: object and back", apart)
    for layer_type in ("decoder_block", "self_attn", "mlp"):
        theirs = Theirs(dict(vector.directions), layer_type)

        def steer(copied: nn.Module, theirs: Any = theirs) -> nn.Module:
            theirs.patch_activations(copied, multiplier=COEFFICIENT)
            return copied

        distance = _distance(model, SteeringVector.from_object(theirs), steer)
        yield _record("steering-vectors", f"its {layer_type} steers", distance)


def _record(library: str, what: str, difference: float) -> Record:
    limit = LIMIT if what.endswith("steers") else 0.0
    return {
        "library": library,
        "what": what,
        "difference": difference,
        "equal": difference <= limit,
    }


def _apart(one: SteeringVector, other: SteeringVector) -> float:
    if one.layers != other.layers:
        return torch.inf
    return max(
        float((one.directions[layer] - other.directions[layer]).abs().max()) for layer in one.layers
    )


def _distance(
    model: nn.Module, vector: SteeringVector, steer: Callable[[nn.Module], nn.Module]
) -> float:
    """Return the distance of the logits under another library's steering from ours."""
    batch = _batch(model)
    stock = logits(model, batch)
    theirs: Tensor = logits(steer(copy.deepcopy(model)), batch)
    mine = copy.deepcopy(model)
    patch(mine).steer(vector, COEFFICIENT)
    ours = logits(mine, batch)
    return rms(theirs - ours) / rms(ours - stock)


def _batch(model: nn.Module) -> Batch:
    config: Any = model.config
    draw = torch.Generator().manual_seed(1)
    rows = torch.randint(1, config.vocab_size, (2, 12), generator=draw).tolist()
    return left_padded(rows, 0, torch.device("cpu"))
