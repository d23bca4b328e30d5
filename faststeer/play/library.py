"""The vectors of the page: the demo's, those of a folder, and what clients upload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faststeer.data.shipped import SHIPPED, Behaviour
from faststeer.extraction.extract import extract
from faststeer.models.decoders import find_known
from faststeer.models.fingerprint import fingerprint
from faststeer.models.loading import DEMO_NAME, Loaded
from faststeer.play.doses import REACHES
from faststeer.steering.resolved_use import stated_layers
from faststeer.utils.files import cache_folder
from faststeer.vectors.arguments import require_fitting
from faststeer.vectors.position_range import NAMED_POSITIONS, parse_positions
from faststeer.vectors.steering_vector import SteeringVector

MOST_UPLOADED = 64 << 20  # bytes; vectors of all layers of a 70B model have 2.6 MB
SUFFIXES = (".safetensors", ".gguf")


def demo_vectors(loaded: Loaded) -> list[SteeringVector]:
    """Return the demo's vectors, extracted at the first start and kept in the cache folder."""
    folder = cache_folder() / "play" / DEMO_NAME
    folder.mkdir(parents=True, exist_ok=True)
    known = find_known(loaded.model)
    assert known is not None  # the demo's model is a LLaMA
    config: Any = loaded.model.config
    own, layers = fingerprint(known[0]), list(range(config.num_hidden_layers))
    found = []
    for name in SHIPPED:
        path = folder / f"{name}.safetensors"
        try:
            vector = SteeringVector.load(path)
            fits = vector.metadata.get("fingerprint") == own and vector.layers == layers
        except (OSError, ValueError):  # not there yet, or damaged: it is made again
            fits = False
        if not fits:
            behaviour = Behaviour.shipped(name)
            vector = extract(
                loaded.model, loaded.tokenizer, behaviour.pairs, name=name, layers="all"
            ).for_use(layers=behaviour.layer)  # the others are for trying, and for conditions
            vector.save(path)
        found.append(vector)
    return found


def folder_vectors(folder: Path, hidden_size: int) -> tuple[list[SteeringVector], list[str]]:
    """Return a folder's vectors that fit the model, and a line for each file that does not.

    Raises:
        NotADirectoryError: it is not a folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: is not a folder; expected one of vector files")
    found: list[SteeringVector] = []
    refused = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        try:
            vector = SteeringVector.load(path)
            require_fitting(vector, hidden_size, "play")
            offered_use(vector)
            found.append(vector)
        except (OSError, ValueError) as error:
            refused.append(str(error))
    return found, refused


def uploaded_vector(path: Path, hidden_size: int) -> SteeringVector:
    """Read an uploaded file, which is trusted in nothing: safetensors or GGUF, by its content.

    Raises:
        ValueError: another kind of file, one that is too large, damaged, or of another model; the
            message does not name the place on the server.
    """
    size = path.stat().st_size
    if size > MOST_UPLOADED:
        raise ValueError(
            f"{path.name}: has {size >> 20} MB; a vector's file has at most {MOST_UPLOADED >> 20}"
        )
    with path.open("rb") as opened:
        start = opened.read(9)
    # Never by its name: a .pt holds pickled objects, which run code while they are read.
    if not start.startswith(b"GGUF") and start[8:] != b"{":
        raise ValueError(
            f"{path.name}: is neither a safetensors nor a GGUF file; `faststeer convert` turns "
            "other vectors into one"
        )
    try:
        vector = SteeringVector.load(path)
        require_fitting(vector, hidden_size, "play")
        offered_use(vector)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), path.name)) from None
    return vector


def offered_use(vector: SteeringVector) -> tuple[str, str]:
    """Return the mode and the positions that the vector states, or else "add" and "all".

    Raises:
        ValueError: the page does not offer the mode, or no model knows the positions.
    """
    mode = vector.metadata.get("mode", "add")
    if mode not in REACHES:
        raise ValueError(
            f"vector {vector.name!r} states mode {mode!r}; the page offers {', '.join(REACHES)}"
        )
    positions = vector.metadata.get("positions", "all")
    try:
        parse_positions(positions)
    except ValueError as error:
        raise ValueError(f"vector {vector.name!r}: {error}") from None
    return mode, positions


def default_layers(vector: SteeringVector) -> list[int]:
    """Return the layers that the vector states, or else its middle one.

    All layers of a vector together are a dose that mostly breaks text.
    """
    try:
        stated = stated_layers(vector)
    except ValueError:  # what it states are not layers of its own
        stated = None
    return stated or [vector.layers[len(vector.layers) // 2]]


def scopes(vector: SteeringVector) -> list[str]:
    """Return the choices of tokens: names, the first generated, a range that the vector states."""
    _, stated = offered_use(vector)
    return list(dict.fromkeys([*NAMED_POSITIONS, "first(8)", stated]))
