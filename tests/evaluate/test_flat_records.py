"""Results of sweeps, inspections and `faststeer bench` as flat dicts, for pandas."""

from __future__ import annotations

import json
import math

import pytest
import torch
from inspected import TEXTS, steering
from plain_hooks import random_vector
from transformers import AutoTokenizer

from faststeer import diagnostics
from faststeer.diagnostics import bench
from faststeer.evaluate import DocumentsTask, flat_records, sweep

TASK = DocumentsTask({"letters": ["aaaaaaa", "aaaa"], "prose": ["well, well"]}, target="letters")
ROW = {"phase": "decode", "batch_size": 1, "variant": "stock", "milliseconds": 2.5}
BENCH = {
    "machine": {"cpu": "x"},
    "device": "cpu",
    "model": {"name": "tiny", "layers": 4, "dtype": "float32"},
    "results": [ROW, ROW | {"variant": "plain hooks"}],
}


def is_flat(records) -> bool:
    return not any(isinstance(value, (dict, list)) for own in records for value in own.values())


@pytest.fixture
def swept(tiny_model, byte_tokenizer, tmp_path):
    with torch.no_grad():
        tiny_model.lm_head.weight[ord("a")] = 0  # makes repeated letters likely
        tiny_model.lm_head.weight[:256] *= 2
    vectors = [random_vector("v", range(4)), random_vector("w", range(4), seed=3)]
    how = {"layers": [1, 2], "coefficients": [0.5], "output": tmp_path, "progress": False}
    return sweep(tiny_model, byte_tokenizer, TASK, vectors, **how)


def test_a_sweep_s_results_are_flat_from_the_list_and_from_the_folder(swept, tmp_path) -> None:
    flat = flat_records(swept)
    first, last = flat[0], flat[-1]
    assert (first["steering"], first["vector"], first["layer"]) == ("unsteered", None, None)
    assert first["coefficient"] == 0
    assert sorted((own["vector"], own["layer"], own["coefficient"]) for own in flat[1:]) == [
        (name, layer, 0.5) for name in ("v", "w") for layer in (1, 2)
    ]
    assert last["steering"] == f"{last['vector']} at layer {last['layer']}: 0.5"
    assert last["letters.accuracy"] == swept[-1]["scores"]["letters"]["accuracy"]
    assert last["prose.kl"] == swept[-1]["scores"]["prose"]["kl"]
    assert is_flat(flat)
    assert len({tuple(own) for own in flat}) == 1  # the same columns
    assert flat_records(tmp_path) == flat_records(tmp_path / "results.jsonl") == flat


def test_a_setting_of_several_vectors_is_one_record() -> None:
    setting = {"v": {1: 0.5}, "w": {2: -1.0}}
    [flat] = flat_records([{"steering": setting, "scores": {"score": 0.25}, "items": {}}])
    assert flat == {
        "steering": "v at layer 1: 0.5; w at layer 2: -1",
        "vector": None,
        "layer": None,
        "coefficient": None,
        "score": 0.25,
    }


def test_a_file_that_is_no_sweep_s_is_refused(tmp_path) -> None:
    (tmp_path / "results.jsonl").write_text('{"sweep": 1}\n{"steering": {}}\n')
    with pytest.raises(ValueError, match=r"results.jsonl, line 2: not a record of a sweep"):
        flat_records(tmp_path)


def test_a_vector_in_place_of_a_list_of_vectors_is_refused(tiny_model, tmp_path) -> None:
    how = {"layers": 1, "coefficients": [1.0], "output": tmp_path}
    own = random_vector("v", range(4))
    for call in (
        lambda: sweep(tiny_model, None, TASK, own, **how),
        lambda: diagnostics.cosines_between(own),
        lambda: diagnostics.pair_projections(tiny_model, None, own, [("a", "b")]),
        lambda: diagnostics.inspect(own, others=own),
    ):
        with pytest.raises(TypeError, match=r"is a SteeringVector; expected a list, .* \[vector\]"):
            call()


def test_an_inspection_has_a_flat_record_per_layer(tiny_model, tiny_folder) -> None:
    own = steering()
    alone = diagnostics.inspect(own).records()
    assert [record["layer"] for record in alone] == [0, 1, 3]
    assert [record["norm"] for record in alone] == list(own.norms().values())
    assert (alone[0]["dose"], alone[0]["promoted"]) == (None, None)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    found = diagnostics.inspect(own, tiny_model, tokenizer, texts=TEXTS, coefficient=2.0)
    records = found.records()
    assert is_flat(records)
    for record in records:
        facts = found.layers[record["layer"]]
        assert (record["vector"], record["site"]) == ("v", "resid_post")
        assert record["dose"] == facts.dose
        assert math.isclose(record["dose"], 2.0 * record["norm"] / record["residual_norm"])
        assert len(record["promoted"].split(" ")) == len(facts.lens.promoted) == 5
        assert record["suppressed"] != record["promoted"]


def test_a_bench_record_is_flat_with_model_and_device(tmp_path) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(BENCH))
    flat = bench.flat_records(tmp_path / "bench.json")
    facts = {"model": "tiny", "dtype": "float32", "device": "cpu"}
    assert flat == bench.flat_records(BENCH) == [facts | row for row in BENCH["results"]]
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"other.json: not a record of faststeer bench"):
        bench.flat_records(tmp_path / "other.json")
