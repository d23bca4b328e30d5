from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from vector_files import same

from faststeer import SteeringVector
from faststeer.utils.files import write_whole


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.safetensors"
    SteeringVector("small", {0: torch.tensor([1.5, -2.0]), 3: torch.tensor([0.5, 4.0])}).save(file)
    return file


def write(file: Path, header: dict[str, str], **tensors: Tensor) -> None:
    named = {name.replace("_", "."): tensor for name, tensor in tensors.items()}
    safetensors.torch.save_file(named, file, header)


def header(**changed: str) -> dict[str, str]:
    facts = {"format": "faststeer", "format_version": "1", "name": "v"}
    return facts | {"site": "resid_post", "metadata": "{}"} | changed


def test_a_saved_vector_is_restored_bit_for_bit(tmp_path: Path) -> None:
    special = torch.tensor([-0.0, 1e-45, -1e-40, 3.4028235e38, 1 / 3])
    random_ones = torch.randn(5, generator=torch.Generator().manual_seed(0))
    original = SteeringVector("v", {0: special, 17: random_ones, 2: -special}, "resid_mid")
    original.save(tmp_path / "v.safetensors")
    assert same(SteeringVector.load(tmp_path / "v.safetensors"), original)


def test_equal_vectors_make_equal_files(tmp_path: Path) -> None:
    facts = {letter: n for n, letter in enumerate("schönes wetter")}
    for number in range(8):  # safetensors orders its metadata differently each time
        vector = SteeringVector("v", {1: torch.ones(3)}, metadata=facts)
        vector.save(tmp_path / f"{number}.safetensors")
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1
    assert same(SteeringVector.load(tmp_path / "0.safetensors"), vector)


def test_names_and_metadata_are_restored_in_any_language(tmp_path: Path) -> None:
    metadata = {
        "Modell": "größtes Modell",
        "nested": {"list": [1, 2.5, None, True, "日本語"], "deeper": {"🙂": "\u0000\n\"'\\"}},
    }
    original = SteeringVector("近視 🙂", {1: torch.ones(2)}, metadata=metadata)
    original.save(tmp_path / "ünï 🙂.safetensors")
    assert same(SteeringVector.load(tmp_path / "ünï 🙂.safetensors"), original)


def test_metadata_that_cannot_be_stored_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        SteeringVector("v", {1: torch.ones(2)}, metadata={"model": object()}).save(
            tmp_path / "v.safetensors"
        )
    assert not list(tmp_path.iterdir())


def test_any_safetensors_reader_reads_the_file(small: Path) -> None:
    with safetensors.safe_open(small, framework="pt") as opened:
        assert opened.metadata()["name"] == "small"
        assert opened.get_tensor("direction.3").tolist() == [0.5, 4.0]


def test_a_file_truncated_anywhere_is_an_error_that_names_it(small: Path, tmp_path: Path) -> None:
    whole = small.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"^{re.escape(str(cut))}: "):
            SteeringVector.load(cut)


def test_a_damaged_file_is_a_value_error_or_a_finite_vector(small: Path, tmp_path: Path) -> None:
    whole = small.read_bytes()
    damaged = tmp_path / "damaged.safetensors"
    dice = random.Random(0)
    refused: list[str] = []
    for _ in range(1500):
        content = bytearray(whole)
        for _ in range(dice.choice((1, 1, 1, 2, 8))):
            place = dice.randrange(len(content))
            piece = dice.choice((b"", b"\x00", b"\xff", b"9", b"{", b'"', dice.randbytes(1)))
            content[place : place + dice.choice((1, 1, 1, 0, 5))] = piece
        damaged.write_bytes(content)
        try:
            vector = SteeringVector.load(damaged)
        except ValueError as error:
            refused.append(str(error))
        else:
            assert all(direction.isfinite().all() for direction in vector.directions.values())
    assert all(message.startswith(f"{damaged}: ") for message in refused)
    assert 750 < len(refused) < 1500  # some damage affects only numbers or white space


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected a vector's file"),
        (b"{}", "JSON, but no vector of IBM's activation-steering: it has no keys"),
        (b"\xff" * 8 + b"{" + b"\xff" * 64, "not a readable safetensors file"),
        (b"\xff" * 64, "not a readable safetensors file"),
    ],
)
def test_a_file_that_is_not_safetensors_is_refused_by_name(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "v.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}: {message}"):
        SteeringVector.load(file)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"format": "pt"}, "no faststeer vector: its header's 'format' is 'pt'"),
        (header(format_version="2"), "format version '2'; this faststeer reads version 1. Upgrade"),
        (header(site="mlp"), "site 'mlp' is unknown"),
        (header(metadata="{"), "Expecting property name"),
        (header(metadata="[1]"), "metadata is a list, expected an object"),
        (header(metadata="[" * 100_000), "recursion"),
    ],
    ids=["another kind", "later version", "site", "no JSON", "no object", "deep"],
)
def test_a_header_that_is_not_ours_is_refused_with_the_reason(
    tmp_path: Path, facts: dict[str, str], message: str
) -> None:
    file = tmp_path / "v.safetensors"
    write(file, facts, direction_1=torch.ones(2))
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}: .*{re.escape(message)}"):
        SteeringVector.load(file)


def test_a_model_s_safetensors_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"lm_head.weight": torch.ones(2, 2)}, file)
    with pytest.raises(ValueError, match=r"model\.safetensors: .* no faststeer vector.*None"):
        SteeringVector.load(file)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("bias", torch.ones(2), "unexpected tensor 'bias'; expected direction.<layer>"),
        ("direction_01", torch.ones(2), "unexpected tensor 'direction.01'"),
        ("direction_-1", torch.ones(2), "unexpected tensor 'direction.-1'"),
        ("direction_1", torch.ones(2, 2), "layer 1: shape (2, 2)"),
        ("direction_1", torch.tensor([1, 2]), "tensor 'direction.1' is torch.int64"),
        ("direction_1", torch.tensor([1, 2], dtype=torch.uint32), "is torch.uint32"),
        ("direction_1", torch.tensor([1.0, float("nan")]), "layer 1: 1 of 2 values are NaN"),
        ("direction_1", torch.ones(3), "directions of sizes [2, 3]"),
    ],
)
def test_tensors_that_are_not_directions_are_refused_with_the_reason(
    tmp_path: Path, name: str, tensor: Tensor, message: str
) -> None:
    file = tmp_path / "v.safetensors"
    write(file, header(), direction_0=torch.ones(2), **{name: tensor})
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}: .*{re.escape(message)}"):
        SteeringVector.load(file)


@pytest.mark.parametrize("key", ["name", "site", "metadata"])
def test_a_header_with_a_missing_field_is_refused_rather_than_defaulted(
    tmp_path: Path, key: str
) -> None:
    facts = header()
    del facts[key]
    write(tmp_path / "v.safetensors", facts, direction_1=torch.ones(2))
    with pytest.raises(ValueError, match=f"v.safetensors: its header lacks '{key}'; expected"):
        SteeringVector.load(tmp_path / "v.safetensors")


def test_a_header_with_an_unknown_field_is_refused_by_its_name(tmp_path: Path) -> None:
    write(tmp_path / "v.safetensors", header(mode="project"), direction_1=torch.ones(2))
    with pytest.raises(ValueError, match=r"v\.safetensors: its header has an unknown 'mode'"):
        SteeringVector.load(tmp_path / "v.safetensors")


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "v.safetensors", header())
    with pytest.raises(ValueError, match=r"v\.safetensors: vector 'v' has no directions"):
        SteeringVector.load(tmp_path / "v.safetensors")


def test_loading_a_missing_file_reports_it(tmp_path: Path) -> None:
    nothing, pipe = tmp_path / "none.safetensors", tmp_path / "pipe.gguf"
    os.mkfifo(pipe)  # opening it would block forever
    for path, message in ((nothing, "no such file"), (pipe, "is a pipe or a device")):
        expected = re.escape(f"{path}: {message}; expected a vector's file")
        with pytest.raises(OSError, match=expected):
            SteeringVector.load(path)


def test_saving_into_a_missing_folder_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
        SteeringVector("v", {0: torch.ones(1)}).save(tmp_path / "nowhere" / "v.safetensors")


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("reason", [KeyboardInterrupt, OSError])
def test_an_interrupted_save_leaves_only_the_old_file(
    small: Path, monkeypatch: pytest.MonkeyPatch, step: str, reason: type[BaseException]
) -> None:
    old = small.read_bytes()

    def interrupted(*_: Any) -> None:
        raise reason

    monkeypatch.setattr(os, step, interrupted)
    with pytest.raises(reason):
        SteeringVector("new", {0: torch.ones(1000)}).save(small)
    monkeypatch.undo()
    assert small.read_bytes() == old
    assert list(small.parent.iterdir()) == [small]


def test_a_reader_during_a_save_sees_the_complete_old_file(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    replace = os.replace

    def spied(source: Any, target: Any) -> None:
        seen.append(SteeringVector.load(small).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", spied)
    SteeringVector("new", {0: torch.ones(2)}).save(small)
    assert seen == ["small"]
    assert SteeringVector.load(small).name == "new"


def test_a_saved_file_has_the_default_permissions_of_a_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "ours", b"")
        (tmp_path / "usual").touch()
        assert os.umask(0o027) == 0o027  # and the umask is unchanged
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode for name in ("ours", "usual")]
    assert modes[0] == modes[1]


def test_the_header_is_plain_json_that_other_tools_can_read(small: Path) -> None:
    content = small.read_bytes()
    length = int.from_bytes(content[:8], "little")
    facts = json.loads(content[8 : 8 + length])["__metadata__"]
    assert facts == {
        "format": "faststeer",
        "format_version": "1",
        "name": "small",
        "site": "resid_post",
        "metadata": "{}",
    }
