"""A baked checkpoint, loaded without faststeer, gives the steered model's output."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from baking import BIASED, IDS, SITES, changed, near
from plain_hooks import random_vector
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import faststeer

EIGHT = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}

# name: (config, [(site, coefficient, layers, mode), ...]), baked one after the other
CASES: dict[str, tuple[dict[str, Any], list[tuple[str, float, Any, str]]]] = {
    "post": ({}, [("resid_post", 2.0, 1, "add")]),
    "post of all layers, tied": (
        {"tie_word_embeddings": True},
        [("resid_post", 1.5, None, "add")],
    ),
    "mid": ({}, [("resid_mid", -2.0, [0, 3], "add")]),
    "pre": ({}, [("resid_pre", 2.0, {0: 1.0, 2: -0.5}, "add")]),
    "pre, tied": ({"tie_word_embeddings": True}, [("resid_pre", 2.0, 0, "add")]),
    "biased": (BIASED, [("resid_post", 2.0, 3, "add"), ("resid_mid", 1.0, 3, "add")]),
    "all, tied": (
        {"tie_word_embeddings": True},
        [(site, 1.0 + n, [0, n], "add") for n, site in enumerate(SITES)],
    ),
    "twice": ({}, [("resid_post", 1.0, [1, 2], "add"), ("resid_post", 0.5, [2, 3], "add")]),
    "ablated": ({}, [("resid_mid", 1.0, 1, "ablate")]),
    "ablated, tied": ({"tie_word_embeddings": True}, [("resid_post", 1.0, 2, "ablate")]),
    "bfloat16, tied": (
        {"dtype": torch.bfloat16, "tie_word_embeddings": True},
        [("resid_post", 2.0, 1, "add"), ("resid_pre", 2.0, 0, "add")],
    ),
    "float16, ablated": ({"dtype": torch.float16}, [("resid_post", 1.0, 2, "ablate")]),
}
FLOAT32 = [name for name in CASES if "float" not in name]


def vector_of(step: int, site: str) -> faststeer.SteeringVector:
    return random_vector(f"v{step}", range(4), seed=step, site=site)


def steered(model: LlamaForCausalLM, name: str) -> dict[str, Tensor]:
    """Return the model's outputs under the case's steering, by hooks for ablation."""
    terms = CASES[name][1]
    site, _, layer, mode = terms[0]
    if mode == "ablate":
        direction = vector_of(0, site).directions[layer]
        unit = direction / direction.norm()
        with changed(model, lambda site, layer, h: h - (h @ unit)[..., None] * unit):
            return outputs(model)
    with faststeer.patch(model) as patched:
        for step, (site, coefficient, layers, _) in enumerate(terms):
            patched.steer(vector_of(step, site), coefficient, layers=layers)
        return outputs(model)


def outputs(model: LlamaForCausalLM) -> dict[str, Tensor]:
    with torch.inference_mode():
        tokens = model.generate(IDS, attention_mask=torch.ones_like(IDS), **EIGHT)
        return {"logits": model(IDS).logits, "tokens": tokens}


def bake(model: LlamaForCausalLM, name: str) -> LlamaForCausalLM:
    for step, (site, coefficient, layers, mode) in enumerate(CASES[name][1]):
        faststeer.bake(model, vector_of(step, site), coefficient, layers, mode=mode)
    return model


SERVE = """
import json, sys
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(2)
folders, eight = json.loads(sys.argv[1]), json.loads(sys.argv[2])
ids = torch.tensor(json.loads(sys.argv[3]))
for folder in folders:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", output_loading_info=True
    )
    assert not any(info.values()), info
    with torch.inference_mode():
        tokens = model.generate(ids, attention_mask=torch.ones_like(ids), **eight)
        save_file({"logits": model(ids).logits, "tokens": tokens}, folder + "/outputs")
assert not any(name.startswith("faststeer") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, make_tiny: Callable[..., LlamaForCausalLM]
) -> dict[str, Path]:
    """Return the folder of each case: baked, saved, and run by a process without faststeer."""
    root = tmp_path_factory.mktemp("baked")
    folders = {name: root / str(n) for n, name in enumerate(CASES)}
    for name, folder in folders.items():
        bake(make_tiny(**CASES[name][0]), name).save_pretrained(folder)
    arguments = [list(map(str, folders.values())), EIGHT, IDS.tolist()]
    done = subprocess.run(
        [sys.executable, "-c", SERVE, *map(json.dumps, arguments)],
        cwd=root,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folders


@pytest.mark.parametrize("name", FLOAT32)
def test_a_process_without_faststeer_gives_the_steered_model_s_output(
    served, make_tiny, name
) -> None:
    model = make_tiny(**CASES[name][0])
    idle = outputs(model)
    expected, found = steered(model, name), load_file(served[name] / "outputs")
    assert near(found["logits"], expected["logits"])
    assert torch.equal(found["tokens"], expected["tokens"])
    assert (expected["logits"] - idle["logits"]).abs().max() > 0.1
    assert not torch.equal(expected["tokens"], idle["tokens"])


@pytest.mark.parametrize("name", CASES)
def test_saving_and_loading_change_no_bit(served, make_tiny, name) -> None:
    baked = bake(make_tiny(**CASES[name][0]), name)
    loaded = AutoModelForCausalLM.from_pretrained(served[name], dtype="auto")
    assert loaded.state_dict().keys() == baked.state_dict().keys()
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, baked.state_dict()[key]), key
        assert value.dtype == CASES[name][0].get("dtype", torch.float32)
    found, expected = load_file(served[name] / "outputs"), outputs(baked)
    assert torch.equal(found["logits"], expected["logits"])
    assert torch.equal(found["tokens"], expected["tokens"])


def test_the_saved_config_records_what_was_baked(tiny_model, tmp_path) -> None:
    faststeer.bake(tiny_model, vector_of(0, "resid_post"), layers=0, mode="ablate")
    faststeer.bake(tiny_model, vector_of(1, "resid_pre"), 2, {1: 1.0, 3: -0.5})
    tiny_model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    common = {"faststeer": faststeer.__version__}
    assert config["faststeer_baked"] == [
        {"vector": "v0", "mode": "ablate", "site": "resid_post", "layers": {"0": 1.0}} | common,
        {"vector": "v1", "mode": "add", "site": "resid_pre", "layers": {"1": 2.0, "3": -1.0}}
        | common,
    ]


def test_smollm2_is_baked_at_all_sites_and_reloads(demo, tmp_path) -> None:
    ids = demo.tokenizer("The hotel was quiet, and the food", return_tensors="pt").input_ids
    model = copy.deepcopy(demo.model)
    terms = []
    for seed, (site, layer) in enumerate(zip(SITES, [0, 10, 15], strict=True)):
        vector = random_vector(site, [layer], model.config.hidden_size, seed, site)
        terms.append((vector, 0.5 if layer == 0 else 8.0))
    with torch.inference_mode():
        idle = model(ids).logits
        with faststeer.patch(model) as patched:
            for vector, coefficient in terms:
                patched.steer(vector, coefficient)
            expected = model(ids).logits
        for vector, coefficient in terms:
            faststeer.bake(model, vector, coefficient)
        model.save_pretrained(tmp_path)
        del model
        found = AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits
    difference = (found - expected).abs().max()
    assert (expected - idle).abs().max() > 1
    # Thirty layers of float32 roundings, on logits up to 30: measured 3e-5.
    assert difference < 1e-4, difference
