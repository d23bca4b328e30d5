"""assistant-axis's capping_config.pt: its ceilings, and what it may not hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from faststeer import SteeringVector, patch
from faststeer.cli.steer_option import SteerOption

GENERATOR = torch.Generator().manual_seed(0)
DIRECTIONS = {layer: 3 * torch.randn(64, generator=GENERATOR) for layer in (1, 2)}
IDS = torch.arange(1, 9)[None]


def config(**changes: Any) -> dict[str, Any]:
    """Return what their build_capping_steerer reads."""
    found = {
        "vectors": {
            "layer_2/away": {"layer": 2, "vector": DIRECTIONS[2].bfloat16()},
            "layer_1/away": {"layer": 1, "vector": DIRECTIONS[1]},
            "layer_1/other": {"layer": 1, "vector": DIRECTIONS[2]},
        },
        "experiments": [
            {
                "id": "layers_1:3-p0.25",
                "interventions": [
                    {"vector": "layer_2/away", "cap": 0.5},
                    {"vector": "layer_1/away", "cap": -0.25},
                    {"vector": "layer_1/other"},
                ],
            },
            {"id": "baseline", "interventions": []},
        ],
    }
    return found | changes


def saved(content: Any, folder: Path) -> Path:
    file = folder / "capping_config.pt"
    torch.save(content, file)
    return file


def test_an_experiment_is_a_vector_that_states_a_ceiling_per_layer(tmp_path: Path) -> None:
    file = saved(config(), tmp_path)
    vector = SteeringVector.load(file, experiment="layers_1:3-p0.25")
    assert (vector.name, vector.site, vector.layers) == ("layers_1:3-p0.25", "resid_post", [1, 2])
    assert vector.metadata == {
        "mode": "cap",
        "ceiling": {"1": -0.25, "2": 0.5},
        "layers": [1, 2],
    }
    assert torch.equal(vector.directions[1], DIRECTIONS[1])
    assert torch.equal(vector.directions[2], DIRECTIONS[2].bfloat16().float())


def test_it_caps_from_above_what_their_hooks_cap(tiny_model: Any, plain: Any, tmp_path) -> None:
    vector = SteeringVector.load(saved(config(), tmp_path), experiment="layers_1:3-p0.25")

    def excess_removed(h: Tensor, layer: int, cap: float) -> Tensor:
        direction = vector.directions[layer] / vector.directions[layer].norm()
        return h - (h @ direction - cap).clamp(min=0)[..., None] * direction

    hooks = [
        plain.model.layers[layer].register_forward_hook(
            lambda m, args, out, layer=layer, cap=cap: excess_removed(out, layer, cap)
        )
        for layer, cap in ((1, -0.25), (2, 0.5))
    ]
    with torch.inference_mode():
        expected = plain(IDS).logits
        for hook in hooks:
            hook.remove()
        assert (plain(IDS).logits - expected).abs().max() > 1e-2
        with patch(tiny_model) as patched:
            handle = patched.cap(vector)
            torch.testing.assert_close(tiny_model(IDS).logits, expected, rtol=0, atol=2e-5)
    assert (handle.floor, handle.ceiling) == (None, {1: -0.25, 2: 0.5})


def test_it_becomes_a_file_of_ours_and_is_steered_from_the_command_line(
    tiny_model: Any, tmp_path: Path
) -> None:
    SteeringVector.load(saved(config(), tmp_path), experiment="layers_1:3-p0.25").save(
        tmp_path / "axis.safetensors"
    )
    with patch(tiny_model) as patched:
        for text, layers, ceiling in (
            ("", [1, 2], {1: -0.25, 2: 0.5}),
            (":layer=2", [2], 0.5),
            (":ceiling=3:floor=-1:layer=1", [1], 3.0),
        ):
            handle = SteerOption.parse(f"{tmp_path / 'axis.safetensors'}{text}").apply(patched)
            assert (handle.layers, handle.ceiling) == (layers, ceiling)
        assert handle.floor == -1.0
        with pytest.raises(ValueError, match="only adds"):
            handle.vector.save(tmp_path / "v.gguf")


def test_a_file_of_one_experiment_needs_no_name_of_it(tmp_path: Path) -> None:
    only = config(experiments=config()["experiments"][:1])
    assert SteeringVector.load(saved(only, tmp_path)).layers == [1, 2]


def experiment(*interventions: Any) -> list[dict[str, Any]]:
    return [{"id": "e", "interventions": list(interventions)}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "several experiments; give experiment=, one of: layers_1:3-p0.25, baseline"),
        ({"experiments": []}, "several experiments; give experiment=, one of: none"),
        ({"experiments": [{"interventions": []}]}, "experiments is not a list of dicts with an id"),
        ({"experiments": experiment()}, "experiment 'e' caps nothing"),
        ({"experiments": [{"id": "e"}]}, "experiment 'e' has no list of interventions"),
        ({"experiments": experiment(3)}, "experiment 'e': an intervention is a int"),
        ({"experiments": experiment({"vector": "x", "cap": 1.0})}, "vector 'x' is not in the file"),
        ({"experiments": experiment({"vector": ["x"], "cap": 1.0})}, "is not in the file"),
        (
            {
                "experiments": experiment(
                    {"vector": "layer_1/away", "cap": 1.0}, {"vector": "layer_1/other", "cap": 1.0}
                )
            },
            "experiment 'e' caps two directions at layer 1, and a vector has one",
        ),
        (
            {"experiments": experiment({"vector": "layer_1/away", "cap": "high"})},
            "experiment 'e': a cap is a str; expected a number",
        ),
        (
            {"experiments": experiment({"vector": "layer_1/away", "cap": float("nan")})},
            "ceiling of layer 1 is nan; expected a finite number",
        ),
        ({"vectors": []}, "vectors is a list; expected a dict of names"),
    ],
)
def test_other_content_is_refused_in_words(changes, message: str, tmp_path: Path) -> None:
    file = saved(config(**changes), tmp_path)
    named = config()["experiments"][0]["id"] if "vectors" in changes else None
    with pytest.raises(ValueError, match=re.escape(f"{file}: ") + ".*" + re.escape(message)):
        SteeringVector.load(file, experiment=named)


def test_an_unknown_experiment_and_another_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no experiment 'best'; give experiment=, one of: layers"):
        SteeringVector.load(saved(config(), tmp_path), experiment="best")
    with pytest.raises(ValueError, match=r"only a \.pt with one tensor \[N, H\] has rows"):
        SteeringVector.load(saved(config(), tmp_path), rows="layers")
    for name, content in (("vec_layer_3_m.pt", torch.ones(4)), ("v.safetensors", None)):
        file = tmp_path / name
        if content is None:
            SteeringVector("v", {1: torch.ones(4)}).save(file)
        else:
            torch.save(content, file)
        with pytest.raises(ValueError, match="of assistant-axis has experiments"):
            SteeringVector.load(file, experiment="e")


def test_a_pickle_that_needs_more_than_tensors_is_refused_and_not_run(tmp_path: Path) -> None:
    caps = experiment({"vector": "layer_1/away", "cap": np.float64(0.5)})
    with pytest.raises(ValueError, match=r"not a readable \.pt file .* which no vector needs"):
        SteeringVector.load(saved(config(experiments=caps), tmp_path))
