"""The card of a vector on the hub: its metadata for the hub, its facts, and a picture."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub_stand_in import Hub
from vector_files import equal

import faststeer
from faststeer import SteeringVector

MADE = {
    "model": "org/Tiny",
    "fingerprint": "0123abcd",
    "num_layers": 4,
    "method": "mean_difference",
    "read_token": -2,
    "pairs": 40,
    "sinks_read": {"texts": 3, "layers": {"1": 2, "2": 1}},
    "faststeer": "0.1.0",
}
TUNED = {  # as `faststeer.tune` states it, and a figure by kind of text
    "items": "16 held-out pairs",
    "unit": "nats",
    "effect": 1.23456,
    "interval": [1.0, 1.5],
    "random": 0.02,
    "times_random": 61.7,
    "kl": {"prose": 0.0975, "code": 0.2},
    "perplexity_ratio": 1.04,
    "lost_tokens": 0.01,
    "dose": 0.31,
    "budget": "KL of at most 0.1 nats",
    "texts": 32,
    "seed": 0,
}


def vector(**metadata: Any) -> SteeringVector:
    directions = {n: torch.full((4,), float(n)) for n in (1, 2, 3)}
    return SteeringVector("praise | *blame*", directions, metadata=metadata)


def card_of(hub: Hub, pushed: SteeringVector, **arguments: Any) -> tuple[dict[str, Any], str]:
    """Push a vector and return its card's metadata for the hub, and the text after them."""
    commit = pushed.push_to_hub("user/praise", **arguments)
    text = hub.repositories["user/praise"].commits[commit.oid]["README.md"].decode()
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def cells(body: str) -> dict[str, list[str]]:
    """Return the rows of all tables: first cell -> the others."""
    rows = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in body.splitlines() if line[:2] == "| "]
    return {first: rest for first, *rest in rows}


def test_the_card_states_how_the_vector_was_made_and_its_dose(hub: Hub) -> None:
    front, body = card_of(hub, vector(**MADE, coefficient=1.5, layers=[2]))
    assert front == {
        "library_name": "faststeer",
        "tags": ["steering-vector", "activation-steering"],
    }
    rows = cells(body)
    assert rows["model"] == ["org/Tiny"]
    assert rows["fingerprint of its weights"] == ["0123abcd"]
    assert (rows["method"], rows["read token"]) == (["mean_difference"], ["-2"])
    assert (rows["pairs"], rows["made with faststeer"]) == (["40"], ["0.1.0"])
    assert rows["sinks_read.texts"] == ["3"]
    assert rows["sinks_read.layers"] == ["of 2 layers, in the file"]
    assert (rows["coefficient"], rows["layers"]) == (["1.5"], ["2"])
    assert rows["mode"] == ["not stated; add is the default"]
    assert [rows[str(n)] for n in (1, 2, 3)] == [["2"], ["4"], ["6"]]
    assert "not stated; `faststeer inspect" in body
    assert "\n# praise \\| \\*blame\\*\n" in body
    assert "layers 1–3 at resid_post, hidden size 4" in body


def test_what_was_measured_is_shown_and_what_was_not_is_named(hub: Hub) -> None:
    _, body = card_of(hub, vector(tuned=TUNED))
    effect, damage = re.split("## Measured effect|## Damage to other text", body)[1:]
    assert cells(effect)["effect"] == ["1.235"]
    assert cells(effect)["95 % interval over the items"] == ["1, 1.5"]
    assert cells(effect)["effect of random directions of the same norm"] == ["0.02"]
    assert (cells(effect)["items"], cells(effect)["seed"]) == (["16 held-out pairs"], ["0"])
    nats = "KL divergence to the unsteered model on neutral text (nats)"
    assert [cells(damage)[f"{nats}, {kind}"] for kind in ("prose", "code")] == [["0.0975"], ["0.2"]]
    ratio = "perplexity of neutral text, times that of the unsteered model"
    assert cells(damage)[ratio] == ["1.04"]
    assert len(cells(effect)) - 2 + len(cells(damage)) - 2 == len(TUNED) + 1
    assert "0.31 of its median, for the stated layers and coefficient together" in body
    assert "Not measured" not in body
    _, body = card_of(hub, vector())
    assert body.count("Not measured.") == 2
    for fact in ("model", "fingerprint of its weights", "method", "read token"):
        assert cells(body)[fact] == ["not stated"]
    _, body = card_of(hub, vector(tuned={"effect": 1.0}))
    assert body.count("Not measured.") == 1


def test_the_hub_is_told_the_licence_and_a_model_that_it_has(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    front, _ = card_of(hub, vector(model="org/Tiny"), license="apache-2.0")
    assert (front["license"], "base_model" in front) == ("apache-2.0", False)
    hub.create("org/Tiny")
    front, body = card_of(hub, vector(model="org/Tiny"))
    assert front["base_model"] == "org/Tiny"
    assert 'load("org/Tiny")' in body
    front, _ = card_of(hub, vector(model="/home/models/Tiny"), base_model="org/Tiny")
    assert front["base_model"] == "org/Tiny"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "Tiny").mkdir(parents=True)
    front, _ = card_of(hub, vector(model="org/Tiny"))  # the folder, so nothing is known of the hub
    assert "base_model" not in front


def test_the_picture_is_of_the_norms_or_the_caller_s_own(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> dict[str, bytes]:
        repository = hub.repositories["user/praise"]
        return repository.commits[repository.refs["main"]]

    _, body = card_of(hub, vector())
    assert "![norm of the vector by layer](norms.png)" in body
    drawn = files()["norms.png"]
    assert drawn.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", drawn[16:24]) == (640, 360)
    assert len(drawn) < 50_000
    own = tmp_path / "own.png"
    own.write_bytes(drawn[:-1])
    _, body = card_of(hub, vector(), picture=own)
    assert "![picture](picture.png)" in body
    assert files()["picture.png"] == drawn[:-1]
    monkeypatch.setattr("faststeer.vectors.card_picture.find_spec", lambda name: None)
    _, body = card_of(hub, vector())
    assert "![" not in body
    assert "No picture: matplotlib was not installed" in body
    commits = len(hub.repositories["user/praise"].commits)
    with pytest.raises(ValueError, match=r"v\.txt: expected an image, one of \.png"):
        card_of(hub, vector(), picture=tmp_path / "v.txt")
    with pytest.raises(FileNotFoundError, match=r"absent\.png: no such file; expected an image"):
        card_of(hub, vector(), picture=tmp_path / "absent.png")
    assert len(hub.repositories["user/praise"].commits) == commits


@pytest.mark.filterwarnings("ignore::faststeer.FaststeerWarning")
def test_the_card_s_python_code_runs(hub: Hub, tiny_folder: Path) -> None:
    made = SteeringVector(
        "v", {n: torch.ones(64) for n in (1, 2, 3)}, metadata={"model": str(tiny_folder)}
    )
    _, body = card_of(hub, made)
    [code] = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    assert "layers=2, coefficient=1.0" in code
    assert "does not state layer 2 and coefficient 1: examples" in body
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    assert equal(namespace["vector"], made)
    assert namespace["vector"].metadata["origin"]["sha256"] in code
    _, body = card_of(hub, made.for_use(layers=3, coefficient=2.0))
    assert "patched.steer(vector)\n" in body
    assert "--steer praise.safetensors --prompt" in body
    assert faststeer.__version__ in body
