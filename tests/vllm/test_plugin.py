"""The entry point: supported versions, others, and what the environment configures."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from faststeer import SteeringVector
from faststeer.vllm import plugin
from faststeer.vllm.configuration import Configuration
from faststeer.vllm.vector_store import VectorStore


class VllmConfig:
    """The configuration of an engine of an unknown version."""

    def __init__(self, additional_config) -> None:
        self.additional_config = additional_config
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check itself."""
        self.checked = True


@pytest.fixture
def unknown_version(monkeypatch) -> type[VllmConfig]:
    class Own(VllmConfig):
        def __post_init__(self) -> None:
            """Check itself."""
            self.checked = True

    vllm = ModuleType("vllm")
    vllm.__version__ = "0.99.1"
    vllm.config = ModuleType("vllm.config")
    vllm.config.VllmConfig = Own
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.delenv("FASTSTEER_VECTORS", raising=False)
    return Own


def test_an_unknown_version_is_refused_where_vectors_are_configured(
    unknown_version, monkeypatch
) -> None:
    monkeypatch.setenv("FASTSTEER_VECTORS", "vectors")
    with pytest.raises(
        plugin.UnsupportedVersionError, match=r"steers vLLM 0.32.x, and this is 0.99"
    ):
        plugin.register()


def test_an_unknown_version_is_refused_once_its_configuration_names_vectors(
    unknown_version,
) -> None:
    assert unknown_version({"faststeer": {}}).checked  # before
    plugin.register()
    assert unknown_version({}).checked
    assert unknown_version(None).checked
    with pytest.raises(plugin.UnsupportedVersionError, match="nothing is steered"):
        unknown_version({"faststeer": {"vectors": "folder"}})


def test_the_configuration_is_read_from_either_place(monkeypatch) -> None:
    monkeypatch.delenv("FASTSTEER_VECTORS", raising=False)
    assert Configuration.of(None) is None
    assert Configuration.of({"other": 1}) is None
    given = {"vectors": "here", "layers": [3, 1], "terms": 4, "capacity": 9}
    assert Configuration.of({"faststeer": given}) == Configuration(Path("here"), (1, 3), 4, 9)
    monkeypatch.setenv("FASTSTEER_VECTORS", "there")
    assert Configuration.of(None) == Configuration(Path("there"))
    assert Configuration.of({"faststeer": {"terms": 2}}) == Configuration(Path("there"), terms=2)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("folder", "expected an object"),
        ({"vector": "folder"}, "has vector; expected some of vectors"),
        ({"vectors": 3}, "the folder of the vectors"),
        ({"vectors": "f", "terms": 0}, "terms is 0; expected a number above 0"),
        ({"vectors": "f", "capacity": "many"}, "capacity is 'many'"),
        ({"vectors": "f", "layers": "all"}, "layers is 'all'; expected a list"),
    ],
)
def test_a_wrong_configuration_is_refused_in_words(given, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        Configuration.of({"faststeer": given})


def test_the_folder_is_loaded_or_refused_in_words(tmp_path) -> None:
    def load(**more: object) -> VectorStore:
        return VectorStore.of(Configuration(tmp_path, **more), 8, 4)

    with pytest.raises(ValueError, match=r"has no files \*.safetensors or \*.gguf"):
        load()
    vector = SteeringVector("inner", {1: torch.ones(8), 2: torch.ones(8)})
    vector.save(tmp_path / "outer.safetensors")
    (tmp_path / "notes.txt").write_text("no vector")
    store = load(layers=(0,))
    assert list(store.vectors) == ["outer"]
    assert [(site.layer, site.kind) for site in store.sites] == [
        (layer, "resid_post") for layer in (0, 1, 2)
    ]
    with pytest.raises(ValueError, match="layers of the configuration: layer 4 is out of range"):
        load(layers=(4,))
    vector.at(1, to=3).save(tmp_path / "outer.gguf")
    with pytest.raises(ValueError, match="two vectors of the name 'outer'"):
        load()
    (tmp_path / "outer.gguf").write_bytes(b"GGUF is damaged")
    (tmp_path / "outer.safetensors").unlink()
    with pytest.raises(ValueError, match=r"outer\.gguf"):
        load()
    with pytest.raises(ValueError, match="is not a folder"):
        VectorStore.of(Configuration(tmp_path / "absent"), 8, 4)


def test_vectors_of_another_model_and_other_sites_are_refused() -> None:
    store = VectorStore(8, 4)
    with pytest.raises(ValueError, match="hidden size 6, but the model's is 8"):
        store.put("six", SteeringVector("six", {1: torch.ones(6)}))
    with pytest.raises(ValueError, match="layer 4 is out of range, the model has 0 to 3"):
        store.put("late", SteeringVector("late", {4: torch.ones(8)}))
    store.put("one", SteeringVector("one", {1: torch.ones(8)}))
    store.start()
    with pytest.raises(ValueError, match=r"acts at resid_post of layers \[2\], where this engine"):
        store.put("two", SteeringVector("two", {1: torch.ones(8), 2: torch.ones(8)}))
    store.put("pre", SteeringVector("pre", {2: torch.ones(8)}, "resid_pre"))  # the same site
    assert set(store.vectors) == {"one", "pre"}
    with pytest.raises(ValueError, match="vector 'two' is unknown; this engine serves one, pre"):
        store.remove("two")
