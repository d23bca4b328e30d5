from __future__ import annotations

import json
import platform
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checks import exit_code, run_cli, tiny
from rich.console import Console
from transformers import LlamaForCausalLM

from faststeer.data.batches import left_padded
from faststeer.diagnostics.bench import phases, run, tolerance, variants
from faststeer.diagnostics.bench.cuda_graph import StaticDecode
from faststeer.diagnostics.bench.hook_baselines import Steering, steer_with_hooks, twin
from faststeer.diagnostics.bench.timing import Samples
from faststeer.models.calls import DecoderSignature
from faststeer.models.inference import logits, random_ids
from faststeer.patching.patch import patch
from faststeer.vectors.random import random_vector

VARIANTS = [
    "stock",
    "plain hooks",
    "faststeer, idle",
    "faststeer, 1 vector",
    "faststeer, 4 vectors",
    "faststeer, 16 vectors",
    "faststeer, 64 vectors",
    "faststeer, 1 vector a row",
    "faststeer, 4 vectors a row",
    "faststeer, 16 vectors a row",
    "faststeer, 64 vectors a row",
]


@pytest.mark.parametrize("sizes", ["0", "1,", "1,x", "-1", ""])
def test_batch_sizes_that_are_not_numbers_are_refused(
    sizes: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, tiny(), f"bench --model mine --batch-sizes={sizes}") == 2
    assert f"--batch-sizes {sizes!r}: expected numbers from 1" in capsys.readouterr().err


def test_bench_writes_every_variant_in_every_phase_and_no_path(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    done = run_cli(
        *("bench", "--model", "random:tiny", "--output", output, "--batch-sizes", "1,2"),
        *("--prompt-tokens", "8", "--new-tokens", "2", "--rounds", "2", "--threads", "1"),
    )
    assert done.returncode == 0, done.stderr
    written = output.read_text()
    record = json.loads(written)
    assert record["settings"] == {
        "batch_sizes": [1, 2],
        "prompt_tokens": 8,
        "new_tokens": 2,
        "rounds": 2,
        "compiled": False,
    }
    assert record["machine"]["threads"] == 1
    assert record["model"]["dtype"] == "float32"
    assert record["model"]["layers"] == 4
    rows = record["results"]
    assert [(row["phase"], row["batch_size"], row["variant"]) for row in rows] == [
        (phase, size, variant)
        for size in (1, 2)
        for phase in ("prefill", "decode")
        for variant in VARIANTS
    ]
    assert all(row["milliseconds"] > 0 for row in rows)
    assert all(row["against_stock"] == 1 for row in rows if row["variant"] == "stock")
    assert all(row["against_idle"] == 1 for row in rows if row["variant"] == "faststeer, idle")
    assert str(tmp_path) not in written
    assert platform.node() not in written
    assert all(variant in done.stdout for variant in VARIANTS)


def test_a_model_in_a_folder_is_named_without_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    settings = run.Settings(prompt_tokens=2, new_tokens=1, rounds=1)
    record = run.run(replace(tiny(), name=str(folder)), settings, Console())
    assert record["model"]["name"] == "mine"
    assert str(tmp_path) not in json.dumps(record) + capsys.readouterr().out


# The compared variants do the same work.


def test_hooks_and_faststeer_steer_alike_in_a_benchmark() -> None:
    model = tiny().model
    batch = left_padded([[1, 2, 3, 4], [5, 6]], 0, torch.device("cpu"))
    vectors = [vector * 100.0 for vector in variants.vectors_on_all_layers(model, 4)]
    stock, hooked, steered = (
        logits(variant, batch)
        for variant in (
            model,
            variants.hooked_twin(model, vectors),
            variants.steered_twin(model, vectors),
        )
    )
    effect = tolerance.rms(hooked - stock)
    assert effect > 0.01 * tolerance.rms(stock)
    assert tolerance.rms(steered - hooked) < 1e-4 * effect


def test_a_twin_shares_the_weights_and_leaves_the_model_stock() -> None:
    model = tiny().model
    batch = left_padded([[1, 2, 3]], 0, torch.device("cpu"))
    before = logits(model, batch)
    other = variants.steered_twin(model, variants.vectors_on_all_layers(model, 1))
    assert [p.data_ptr() for p in other.parameters()] == [p.data_ptr() for p in model.parameters()]
    assert not torch.equal(logits(other, batch), before)
    assert torch.equal(logits(model, batch), before)


def past_length(module, args, kwargs) -> int | torch.Tensor:
    return DecoderSignature.of(module).bind(args, kwargs).past_length()


def test_every_decode_sample_begins_with_the_same_cache() -> None:
    model = tiny().model
    lengths: list[int] = []
    variants = {"a": twin(model), "b": twin(model)}
    for variant in variants.values():
        variant.register_forward_pre_hook(
            lambda module, args, kwargs: lengths.append(past_length(module, args, kwargs)),
            with_kwargs=True,
        )
    phases.decode(variants, random_ids(model, 2, 8), 3, 2, lambda _: None)
    warm_up_and_rounds, prefill = 3, [0]
    assert lengths == prefill + [8, 9, 10] * len(variants) * warm_up_and_rounds


def test_a_variant_twice_as_slow_as_stock_is_2_against_stock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = {name: [0.25, 1.0, 0.5] for name in VARIANTS} | {"plain hooks": [0.5, 2.0, 1.0]}
    for phase in (phases.PREFILL, phases.DECODE):
        monkeypatch.setitem(phases.PHASES, phase, lambda *options: Samples(seconds))
    rows = run.measure(tiny().model, run.Settings(prompt_tokens=1), lambda _: None)
    (hooks, _) = [row for row in rows if row.variant == "plain hooks"]
    assert (hooks.against_stock, hooks.against_idle, hooks.milliseconds) == (2, 2, 1000)
    assert (hooks.lower_quartile, hooks.upper_quartile) == (2, 2)


def test_the_scatter_of_a_ratio_is_the_middle_half_of_its_rounds() -> None:
    samples = Samples({"stock": [2.0] * 5, "ours": [1.0, 3.0, 2.0, 10.0, 0.1]})
    assert samples.ratio_quartiles("ours", "stock") == (0.5, 1.5)
    assert Samples({"a": [1.0], "b": [4.0]}).ratio_quartiles("a", "b") == (0.25, 0.25)


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post"])
def test_plain_hooks_add_at_the_given_site(site: str) -> None:
    """Read from transformers' own hidden states, which do not depend on these hooks."""
    model: Any = tiny().model
    vector = random_vector("v", {1: 3.0}, 64, seed=0, site=site)
    steering: Steering = [(vector, 2.0)]
    ids = random_ids(model, 1, 4)

    def states() -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            found: tuple[torch.Tensor, ...] = model(ids, output_hidden_states=True).hidden_states
        return found

    stock = states()
    with steer_with_hooks(model, steering):
        steered = states()
    changed = [not torch.equal(a, b) for a, b in zip(stock, steered, strict=True)]
    # hidden_states[L] is the input of layer L.
    assert (
        changed
        == {
            "resid_pre": [False, True, True, True, True],
            "resid_mid": [False, False, True, True, True],
            "resid_post": [False, False, True, True, True],
        }[site]
    )
    if site != "resid_mid":
        layer = 1 if site == "resid_pre" else 2
        added = steered[layer] - stock[layer]
        torch.testing.assert_close(added, (2 * vector.directions[1]).expand_as(added))


def needs_a_cache_that_counts_on_the_device() -> pytest.MarkDecorator:
    old = int(transformers.__version__.partition(".")[0]) < 5
    return pytest.mark.skipif(
        old, reason="a captured step needs the static cache of transformers 5"
    )


@needs_a_cache_that_counts_on_the_device()
def test_steps_over_a_static_cache_give_the_logits_of_one_long_forward() -> None:
    model: Any = tiny().model
    patched_twin = variants.steered_twin(model, variants.vectors_on_all_layers(model, 4))
    ids = random_ids(model, 2, 6)
    static = StaticDecode(model, ids, 3)
    for variant in (model, patched_twin, model):  # rewinding repeats the same steps
        static.rewind()
        with torch.inference_mode():
            steps = torch.cat([static.step(variant) for _ in range(3)], 1)
            longer = torch.cat([ids, ids[:, -1:].expand(-1, 3)], 1)
            if variant is model:
                expected = model(longer).logits[:, 6:]
                torch.testing.assert_close(steps, expected, rtol=1e-5, atol=1e-5)


@needs_a_cache_that_counts_on_the_device()
def test_a_captured_step_reads_no_value_from_the_device() -> None:
    """On meta tensors reading any value raises."""
    config = tiny().model.config
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval()
    for variant in variants.variants_of(model).values():
        static = StaticDecode(model, torch.zeros(2, 6, dtype=torch.long, device="meta"), 3)
        static.rewind()
        with torch.inference_mode():
            assert static.step(variant).shape == (2, 1, config.vocab_size)


@needs_a_cache_that_counts_on_the_device()
def test_every_captured_sample_begins_after_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses the step itself in place of its graph, which needs a GPU."""
    starts: list[int] = []

    def capture(static: StaticDecode, model: torch.nn.Module):
        def replay() -> None:
            starts.append(int(static.position))
            static.step(model)

        return replay

    monkeypatch.setattr(StaticDecode, "capture", capture)
    model = tiny().model
    variants = {"a": twin(model), "b": twin(model)}
    samples = phases.decode_captured(variants, random_ids(model, 2, 8), 3, 2, lambda _: None)
    warm_up_and_rounds = 3
    assert starts == [8, 9, 10] * len(variants) * warm_up_and_rounds
    assert {name: len(own) for name, own in samples.seconds.items()} == {"a": 2, "b": 2}


@needs_a_cache_that_counts_on_the_device()
def test_two_models_are_compiled_stock_and_one_for_both_idle_and_steered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model = tiny().model
    compared = variants.variants_of(model)
    torch._dynamo.utils.counters.clear()
    with variants.per_row_steering(compared, 2):
        ids = random_ids(model, 2, 8)
        samples = phases.decode_compiled(compared, ids, 3, 2, lambda _: None)
    assert {name: len(own) for name, own in samples.seconds.items()} == {
        "stock": 2,
        "faststeer, idle": 2,
        "faststeer, 4 vectors a row": 2,
    }
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    torch._dynamo.reset()


def test_rows_in_a_benchmark_give_every_sequence_another_dose() -> None:
    compared = variants.variants_of(tiny().model)
    with variants.per_row_steering(compared, 3):
        for count in variants.COUNTS:
            plan = patch(compared[variants.per_row_variant(count)]).plan
            doses = [tuple(weights[0] for weights in setting.values()) for setting in plan.settings]
            assert len(set(doses)) == 3
            assert all(len(dose) == count for dose in doses)
            assert len(patch(compared[variants.shared_variant(count)]).plan.settings) == 1
    assert not any(
        patch(model).plan.rows for name, model in compared.items() if name.startswith("faststeer")
    )


def test_the_progress_bar_ends_with_the_last_sample() -> None:
    settings = run.Settings(batch_sizes=(1, 2), prompt_tokens=2, new_tokens=1, rounds=1)
    taken: list[int] = []
    run.measure(tiny().model, settings, taken.append)
    warm_up_and_rounds, batches = 2, 2
    per_round = phases.samples_per_round(phases.phases_for(torch.device("cpu"), compiled=False))
    assert sum(taken) == warm_up_and_rounds * batches * per_round


def test_captured_steps_are_timed_on_a_gpu_and_compiled_ones_on_request() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert phases.phases_for(cpu, compiled=False) == ["prefill", "decode"]
    assert phases.phases_for(gpu, compiled=False) == ["prefill", "decode", "decode, captured"]
    for device in (cpu, gpu):
        more = phases.phases_for(device, compiled=True)
        assert more == [*phases.phases_for(device, compiled=False), "decode, compiled"]
