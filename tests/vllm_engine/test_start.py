"""What an engine proves before it serves, and what its compiled graphs are kept by."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from engines import runner, tiny_engine
from served_tiny import Tiny
from torch import nn
from vllm import envs
from vllm.compilation.caching import aot_compile_hash_factors
from vllm.model_executor.layers.layernorm import RMSNorm

from faststeer.utils.version import VERSION
from faststeer.vectors.sites import Site
from faststeer.vllm import engine_steering
from faststeer.vllm.engine_steering import EngineSteering
from faststeer.vllm.steered_modules import make_steered


def test_module_that_does_not_steer_is_found_at_start(
    tiny_llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[nn.Module] = []

    def all_but_the_third(module: nn.Module, *args: Any) -> int | None:
        made.append(module)
        return make_steered(module, *args) if len(made) != 3 else None

    monkeypatch.setattr(engine_steering, "make_steered", all_but_the_third)
    with (
        pytest.raises(RuntimeError, match="nothing steered resid_post of layer 2"),
        tiny_engine(tiny_llama.folder, tiny_llama.vectors_folder),
    ):
        pass
    assert len(made) == 4


def test_module_that_reads_other_vectors_is_found_at_start(
    tiny_llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its op runs, on a copy that is not written when vectors are."""
    seen: list[dict[str, Any]] = []

    def with_copied_vectors(module: nn.Module, kind: Any, tensors: Any, *args: Any) -> int | None:
        seen.append(tensors)
        if len(seen) == 2:
            tensors = {**tensors, "vectors": tensors["vectors"].clone()}
        return make_steered(module, kind, tensors, *args)

    monkeypatch.setattr(engine_steering, "make_steered", with_copied_vectors)
    with (
        pytest.raises(RuntimeError, match="resid_post of layer 1 is not what steering makes of it"),
        tiny_engine(tiny_llama.folder, tiny_llama.vectors_folder),
    ):
        pass


def test_model_that_serves_without_a_steered_module_is_found_at_start(
    tiny_llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a stale compiled graph would: the module steers when called, and is not called."""
    stock = EngineSteering.prove

    def prove_and_undo(self: EngineSteering, run: Any) -> None:
        stock(self, run)
        self.found.norms[Site(2, "resid_post")].__class__ = RMSNorm

    monkeypatch.setattr(EngineSteering, "prove", prove_and_undo)
    with (
        pytest.raises(RuntimeError, match="does not read what resid_post of layer 2"),
        tiny_engine(tiny_llama.folder, tiny_llama.vectors_folder),
    ):
        pass


@pytest.mark.heavy
def test_compiled_graphs_are_kept_by_version_sites_and_shapes(tiny_llama: Tiny, tmp_path) -> None:
    def key_of(**options: Any) -> tuple[Any, str]:
        gc.collect()  # the last engine's tables, whose numbers are part of the key
        with tiny_engine(tiny_llama.folder, tiny_llama.vectors_folder, **options) as llm:
            config = runner(llm).vllm_config
            # The same configuration each time: only what faststeer adds may differ.
            config.additional_config = {}
            return envs.compile_factors().get("FASTSTEER_GRAPHS"), aot_compile_hash_factors(config)[
                0
            ]

    stated, key = key_of()
    assert VERSION in stated
    assert all(f"({layer}, 'resid_post')" in stated for layer in range(4))
    assert key_of() == (stated, key)
    assert key_of(faststeer={"terms": 4})[1] != key
    with tiny_engine(tiny_llama.folder, None):  # nothing is steered: as without the plugin
        assert "FASTSTEER_GRAPHS" not in envs.compile_factors()


@pytest.mark.heavy
def test_key_is_complete_before_a_model_is_compiled(
    tiny_llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    stock = envs.compile_factors

    def recorded() -> dict[str, object]:
        found = stock()
        asked.append(found.get("FASTSTEER_GRAPHS"))
        return found

    monkeypatch.setattr(envs, "compile_factors", recorded)
    options = {"enforce_eager": False}
    with tiny_engine(tiny_llama.folder, tiny_llama.vectors_folder, **options) as llm:
        [key] = set(asked)
        assert str(key).startswith(runner(llm).faststeer.graph_key)


def test_wrong_configuration_is_refused_with_the_reason(tiny_llama: Tiny, tmp_path) -> None:
    wrong = [
        ({"vectors": str(tmp_path / "none")}, "is not a folder"),
        ({"vectors": str(tmp_path)}, "has no files"),
        ({"vectors": str(tiny_llama.vectors_folder), "layers": [4]}, "layer 4 is out of range"),
        ({"vectors": str(tiny_llama.vectors_folder), "term": 4}, "expected some of"),
        ("vectors", "expected an object"),
    ]
    for own, reason in wrong:
        with (
            pytest.raises(ValueError, match=reason),
            tiny_engine(tiny_llama.folder, None, additional_config={"faststeer": own}),
        ):
            pass
