"""`faststeer push` and `faststeer pull` on a stand-in of the hub, in processes of their own."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
from command_line import FASTSTEER, environment
from hub_access import variables
from hub_stand_in import TOKEN, Hub
from vector_files import equal

from faststeer import SteeringVector


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SteeringVector:
    monkeypatch.chdir(tmp_path)
    vector = SteeringVector("praise", {3: torch.arange(4.0), 5: torch.ones(4)})
    vector.save("v.safetensors")
    return vector


def call(hub: Hub, command: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """Run `faststeer` in the working folder, connected to the stand-in."""
    return subprocess.run(
        [*FASTSTEER, *command.split()],
        env=environment(**variables(hub, Path("cache").absolute(), token)),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_vector_is_pushed_and_pulled_pinned(hub: Hub, made: SteeringVector) -> None:
    pushed = call(hub, "push v.safetensors user/praise --private --license mit --message First")
    assert pushed.returncode == 0, pushed.stderr
    repository = hub.repositories["user/praise"]
    assert repository.private
    assert repository.messages == ["initial commit", "First"]
    [revision] = re.findall(r"^--revision (\w{40}) pins it$", pushed.stdout, re.MULTILINE)
    assert f"/user/praise/commit/{revision}\n" in pushed.stdout
    assert repository.refs["main"] == revision
    assert "license: mit" in repository.commits[revision]["README.md"].decode()
    (-made).push_to_hub("user/praise")
    pulled = call(hub, f"pull user/praise --revision {revision} --output w.safetensors")
    assert pulled.returncode == 0, pulled.stderr
    loaded = SteeringVector.load("w.safetensors")
    assert equal(loaded, made)
    origin = loaded.metadata["origin"]
    assert f"--revision {revision} --sha256 {origin['sha256']} pin it\n" in pulled.stdout
    refused = call(hub, f"pull user/praise --sha256 {origin['sha256']} --output x.safetensors")
    assert refused.returncode == 2
    assert re.fullmatch(
        r"error: user/praise at .*: its SHA-256 is .*, expected .*\n", refused.stderr
    )
    assert not Path("x.safetensors").exists()


def test_a_mistake_is_one_line(hub: Hub, made: SteeringVector) -> None:
    made.push_to_hub("user/praise", private=True)
    refused = call(hub, "pull user/praise --output w.safetensors", token="")
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: user/praise: the hub has no such repository, or it is private: give token= or "
        "HF_TOKEN, or log in with `hf auth login`\n"
    )
