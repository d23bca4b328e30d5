"""Cached activations: equal bit for bit, without the model, and only for the same content."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from cached_runs import PAIRS, Runs, equal, extract
from tiny import MakeTiny
from torch import Tensor
from transformers import LlamaForCausalLM

import faststeer
from faststeer import SteeringVector
from faststeer.diagnostics import inspect, residual_norms
from faststeer.models import special_tokens

METHODS = ("mean_difference", "pca_diff", "pca_center", "logistic_probe", "permuted_means")
READ: list[Any] = [-1, -2, "all", "answer", slice(-4, None)]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_bits_from_the_cache_without_the_model(
    tiny_model: LlamaForCausalLM, tmp_path: Path, runs: Runs, method: str
) -> None:
    uncached = extract(tiny_model, method=method)
    assert runs.of(lambda: extract(tiny_model, tmp_path)) > 0  # by another method
    found: list[SteeringVector] = []
    assert runs.of(lambda: found.append(extract(tiny_model, tmp_path, method=method))) == 0
    assert equal(found[0], uncached)
    assert not equal(found[0], extract(tiny_model, pairs=PAIRS[:20], method=method))


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post"])
@pytest.mark.parametrize("read_token", READ)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_site_and_read_token_gives_the_same_bits(
    make_tiny: MakeTiny, tmp_path: Path, dtype: torch.dtype, read_token: Any, site: str
) -> None:
    model = make_tiny(dtype=dtype)
    options = {"site": site, "read_token": read_token}
    uncached = extract(model, **options)
    for _ in range(2):
        assert equal(extract(model, tmp_path, **options), uncached)


@pytest.mark.parametrize("site", ["resid_pre", "resid_post"])
def test_some_layers_are_found_among_all_and_further_layers_are_added(
    tiny_model: LlamaForCausalLM, tmp_path: Path, runs: Runs, site: str
) -> None:
    every = extract(tiny_model, site=site, read_token="answer")

    def read(layers: Any) -> None:
        found = extract(tiny_model, tmp_path, site=site, read_token="answer", layers=layers)
        for layer, direction in found.directions.items():
            assert torch.equal(direction, every.directions[layer])

    assert runs.of(lambda: read([1, 2])) > 0
    assert runs.of(lambda: read(2)) == 0
    assert runs.of(lambda: read([2, 3])) > 0
    assert runs.of(lambda: read([1, 2, 3])) == 0
    assert runs.of(lambda: read("all")) > 0
    assert runs.of(lambda: read("all")) == 0


def test_activations_norms_pairs_and_inspections_are_found_without_the_model(
    tiny_model: LlamaForCausalLM, tmp_path: Path, runs: Runs, tiny_folder: Path
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    texts = [text for pair in PAIRS for text in pair]
    vector = extract(tiny_model)

    def read(cache: Any) -> list[Tensor]:
        inspection = inspect(
            vector,
            tiny_model,
            tokenizer,
            texts=texts,
            pairs=PAIRS,
            progress=False,
            cache=cache,
        )
        facts = [
            (own.residual_norm, own.auc, own.held_out_auc, own.stability)
            for own in inspection.layers.values()
        ]
        options: dict[str, Any] = {"progress": False, "cache": cache}
        norms = residual_norms(tiny_model, tokenizer, texts, cache=cache)
        return [
            faststeer.activations(tiny_model, tokenizer, texts, **options),
            torch.tensor(facts, dtype=torch.float64),
            torch.stack(list(norms.values())),
        ]

    uncached = read(False)
    for again in (False, True):
        found: list[list[Tensor]] = []
        count = runs.of(lambda found=found: found.append(read(tmp_path)))
        assert (count == 0) is again
        assert all(map(torch.equal, found[0], uncached))


def test_nothing_is_kept_unless_it_is_asked_for(
    tiny_model: LlamaForCausalLM,
    tmp_path: Path,
    runs: Runs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTSTEER_CACHE", str(tmp_path / "own"))
    assert runs.of(lambda: extract(tiny_model)) == runs.of(lambda: extract(tiny_model)) > 0
    assert not (tmp_path / "own").exists()
    extract(tiny_model, True)
    assert len(list((tmp_path / "own" / "activations").glob("*.safetensors"))) > 0
    assert runs.of(lambda: extract(tiny_model, True)) == 0


def warned(call: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in caught]


@pytest.mark.parametrize("read_token", [-1, slice(0, 1), "all"])
def test_sinks_confounds_and_a_missing_bos_are_reported_from_the_cache_too(
    tiny_model: LlamaForCausalLM,
    tmp_path: Path,
    runs: Runs,
    monkeypatch: pytest.MonkeyPatch,
    read_token: Any,
) -> None:
    with torch.no_grad():
        tiny_model.model.embed_tokens.weight[ord("i")] *= 1000
    monkeypatch.setattr(special_tokens, "_WORSE", 0.0)  # whatever the perplexities are
    options: dict[str, Any] = {"read_token": read_token, "add_special_tokens": False}

    def messages(cache: Any, layers: Any = "all") -> list[str]:
        special_tokens._checked.clear()  # as in another process
        return warned(lambda: extract(tiny_model, cache, layers=layers, **options))

    uncached, some = messages(False), messages(False, [1, 3])
    kinds = ("texts do not begin with", "confound: ", *(["attention sinks"] * (read_token != -1)))
    assert all(any(kind in message for message in uncached) for kind in kinds)
    assert messages(tmp_path) == uncached
    found: list[list[str]] = []
    assert runs.of(lambda: found.append(messages(tmp_path))) == 0
    assert runs.of(lambda: found.append(messages(tmp_path, [1, 3]))) == 0
    assert found == [uncached, some]


@pytest.mark.parametrize("name", ["GPT2", "Bloom"])
def test_decoders_of_unknown_families_give_the_same_bits(tmp_path: Path, name: str) -> None:
    config = getattr(transformers, f"{name}Config")(
        vocab_size=512, hidden_size=64, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(config).eval()
    uncached = extract(model)
    ran: list[int] = []
    for _ in range(2):
        assert equal(extract(model, tmp_path), uncached)
        kept = {file: file.stat().st_ino for file in tmp_path.iterdir()}
        ran.append(hash(tuple(sorted(kept.items()))))
    assert len(kept) > 0
    assert ran[0] == ran[1]  # nothing was written again


def test_a_cache_that_is_no_folder_is_refused(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cache is 3; expected True, False or a folder"):
        extract(tiny_model, 3)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file: cannot be created"):
        extract(tiny_model, tmp_path / "file")
