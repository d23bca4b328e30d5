"""The vectors that requests may name."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable

from faststeer.vectors.arguments import require_fitting
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector
from faststeer.vllm.configuration import Configuration
from faststeer.vllm.leases import Leases

_SUFFIXES = (".safetensors", ".gguf")


class VectorStore:
    """Vectors by name, all of them for one model.

    `digests`: what tells a vector's content from another's of the same name. `sites`: where the
    engine can steer, fixed when it starts. `lock`: held while a request is checked, which may be in
    another thread than the one that changes vectors. `leases`: of the requests that were checked.
    """

    def __init__(self, hidden_size: int, num_layers: int, reserved: Iterable[int] = ()) -> None:
        """Create a store without vectors. `reserved`: layers to steer at ``resid_post``."""
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.vectors: dict[str, SteeringVector] = {}
        self.digests: dict[str, str] = {}
        self.sites: list[Site] = []
        self.lock = threading.Lock()
        self.leases = Leases()
        self._started = False
        for layer in reserved:
            self._require_layer(layer, "layers of the configuration")
        self._reserved = {Site(layer, "resid_post") for layer in reserved}

    @classmethod
    def of(cls, configuration: Configuration, hidden_size: int, num_layers: int) -> VectorStore:
        """Load the vectors of the configured folder, where there is one.

        Raises:
            ValueError: no such folder, no vectors in it, two files of one name, or one that does
                not fit the model.
        """
        store = cls(hidden_size, num_layers, configuration.reserved)
        folder = configuration.folder
        if folder is None:
            store.start()
            return store
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; faststeer looks there for vectors")
        files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES)
        if not files and not configuration.reserved:
            raise ValueError(f"{folder} has no files *{' or *'.join(_SUFFIXES)}")
        for file in files:
            if file.stem in store.vectors:
                raise ValueError(f"{folder} has two vectors of the name {file.stem!r}")
            store.put(file.stem, SteeringVector.load(file))
        store.start()
        return store

    def start(self) -> None:
        """Fix the sites: those of the vectors so far, and those that are reserved."""
        found = set(self._reserved).union(*(_sites_of(own) for own in self.vectors.values()))
        self.sites = sorted(found, key=lambda site: site.depth)
        self._started = True

    def check(self, name: str, vector: SteeringVector) -> str:
        """Return the digest of a vector that could be put under that name; nothing is changed.

        Raises:
            TypeError: it is not a `SteeringVector`.
            ValueError: it does not fit the model, or needs sites at which the engine cannot steer.
        """
        require_fitting(vector, self.hidden_size, "vllm")
        for layer in vector.layers:
            self._require_layer(layer, f"vector {name!r}")
        if self._started and (missing := _sites_of(vector) - set(self.sites)):
            layers = sorted({site.layer for site in missing})
            raise ValueError(
                f"vector {name!r} acts at {vector.site} of layers {layers}, where this engine does "
                "not steer; start it with these layers in the configuration"
            )
        return content_digest(vector)

    def put(self, name: str, vector: SteeringVector) -> str:
        """Add a vector, or replace the one of that name. Returns its digest. Raises as `check`."""
        digest = self.check(name, vector)
        with self.lock:
            self.vectors[name] = vector
            self.digests[name] = digest
        return digest

    def remove(self, name: str) -> None:
        """Remove a vector. Raises ValueError for a name that it lacks."""
        with self.lock:
            self.require(name)
            del self.vectors[name], self.digests[name]

    def needed(self) -> set[str]:
        """Return the digests that requests may name, or may have named before they were sent."""
        with self.lock:
            return set(self.digests.values()) | self.leases.digests()

    def require(self, name: object) -> SteeringVector:
        """Return the vector of that name. Raises ValueError for one that it lacks."""
        if not isinstance(name, str) or name not in self.vectors:
            names = ", ".join(sorted(self.vectors)) or "none"
            raise ValueError(f"vector {name!r} is unknown; this engine serves {names}")
        return self.vectors[name]

    def _require_layer(self, layer: int, what: str) -> None:
        if not 0 <= layer < self.num_layers:
            raise ValueError(
                f"{what}: layer {layer} is out of range, the model has 0 to {self.num_layers - 1}"
            )


def _sites_of(vector: SteeringVector) -> set[Site]:
    return {Site.of(layer, vector.site) for layer in vector.layers}


def content_digest(vector: SteeringVector) -> str:
    """Return what tells the directions of a vector and their sites from any other's."""
    digest = hashlib.sha256(vector.site.encode())
    for layer, direction in vector.directions.items():
        digest.update(f"/{layer}/{direction.numel()}/".encode())
        digest.update(direction.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
