"""GGUF control vectors, and conversion between formats: same directions, same layers."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from vector_files import equal, same, write_gguf

from faststeer import FaststeerWarning, SteeringVector
from faststeer.cli import main


@pytest.fixture
def vector() -> SteeringVector:
    generator = torch.Generator().manual_seed(0)
    directions = {layer: torch.randn(8, generator=generator) for layer in (1, 2, 13)}
    return SteeringVector("v", directions, metadata={"model": "org/Llama", "read_token": -2})


def test_a_vector_is_restored_completely_from_gguf(vector: SteeringVector, tmp_path: Path) -> None:
    vector.save(tmp_path / "v.gguf")
    assert same(SteeringVector.load(tmp_path / "v.gguf"), vector)


def test_the_gguf_package_reads_the_fields_that_llama_cpp_requires(
    vector: SteeringVector, tmp_path: Path
) -> None:
    vector.save(tmp_path / "v.gguf")
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    keys = ("general.architecture", "controlvector.model_hint", "controlvector.layer_count")
    assert [reader.get_field(key).contents() for key in keys] == ["controlvector", "org/Llama", 3]
    assert [tensor.name for tensor in reader.tensors] == [f"direction.{n}" for n in (1, 2, 13)]
    for tensor, direction in zip(reader.tensors, vector.directions.values(), strict=True):
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert np.array_equal(tensor.data, direction.numpy())


def test_direction_n_is_layer_n_and_n_minus_1_in_files_of_llama_cpp_s_generator(
    tmp_path: Path,
) -> None:
    one, two = np.float32([1, 2]), np.float32([3, 4])
    file = write_gguf(tmp_path / "hot.gguf", direction_1=one, direction_31=two)
    plain, shifted = SteeringVector.load(file), SteeringVector.load(file, shift=True)
    assert {layer: d.tolist() for layer, d in plain.directions.items()} == {1: [1, 2], 31: [3, 4]}
    assert {n: d.tolist() for n, d in shifted.directions.items()} == {0: [1, 2], 30: [3, 4]}
    assert (plain.name, plain.site, plain.metadata) == (
        "hot",
        "resid_post",
        {"model_type": "llama"},
    )


def test_layer_0_is_left_out_on_export_with_a_warning(tmp_path: Path) -> None:
    vector = SteeringVector("v", {0: torch.ones(2), 1: torch.full((2,), 3.0)})
    reason = r"rejects a whole file that has a direction\.0: it is left out"
    with pytest.warns(FaststeerWarning, match=reason) as caught:
        vector.save(tmp_path / "v.gguf")
    assert [one.filename for one in caught] == [__file__]
    assert equal(SteeringVector.load(tmp_path / "v.gguf"), vector.select([1]))


def test_a_vector_of_layer_0_alone_is_refused_on_export_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rejects a whole file that has a direction\.0; save it"):
        SteeringVector("v", {0: torch.ones(2)}).save(tmp_path / "v.gguf")
    assert not list(tmp_path.iterdir())


def test_convert_leaves_layer_0_out_of_a_gguf(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    SteeringVector("v", {n: torch.ones(2) for n in range(3)}).save(tmp_path / "v.safetensors")
    monkeypatch.setattr(sys, "argv", ["faststeer", "convert", "v.safetensors", "v.gguf"])
    monkeypatch.chdir(tmp_path)
    with pytest.warns(FaststeerWarning, match="it is left out"), pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 0
    assert SteeringVector.load(tmp_path / "v.gguf").layers == [1, 2]
    assert "wrote v.gguf from SteeringVector('v', resid_post" in capsys.readouterr().out


def test_resid_pre_is_written_as_the_output_of_the_previous_block(tmp_path: Path) -> None:
    SteeringVector("v", {2: torch.ones(2)}, "resid_pre").save(tmp_path / "v.gguf")
    loaded = SteeringVector.load(tmp_path / "v.gguf")
    assert (loaded.layers, loaded.site) == ([1], "resid_post")


@pytest.mark.parametrize(("site", "place"), [("resid_pre", "embed"), ("resid_mid", "attention")])
@pytest.mark.parametrize(
    ("name", "file_format"), [("v.gguf", None), ("vec_layer_0.pt", None), ("v.pt", "lm-eval")]
)
def test_a_site_that_a_format_cannot_express_is_refused(
    tmp_path: Path, site: str, place: str, name: str, file_format: str | None
) -> None:
    with pytest.raises(ValueError, match=f"'v' is for the .*{place}"):
        SteeringVector("v", {0: torch.ones(2)}, site).save(tmp_path / name, file_format)
    assert not list(tmp_path.iterdir())


ONES = np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("architecture", "tensors", "message"),
    [
        ("llama", {"direction_1": ONES}, "no control vector: general.architecture is 'llama'"),
        ("controlvector", {}, "has no directions"),
        ("controlvector", {"direction_1": ONES, "bias": ONES}, "unexpected tensor 'bias'"),
        ("controlvector", {"direction_01": ONES}, "unexpected tensor 'direction.01'"),
        ("controlvector", {"direction_1": ONES.astype(np.float16)}, "'direction.1' is F16"),
        ("controlvector", {"direction_1": np.ones((2, 2), np.float32)}, "shape (2, 2)"),
        ("controlvector", {"direction_1": ONES * np.nan}, "2 of 2 values are NaN or infinite"),
        ("controlvector", {"direction_1": ONES, "direction_2": ONES[:1]}, "of sizes [1, 2]"),
    ],
)
def test_a_gguf_that_llama_cpp_would_reject_is_refused_with_the_reason(
    tmp_path: Path, architecture: str, tensors: dict[str, Any], message: str
) -> None:
    file = write_gguf(tmp_path / "v.gguf", architecture, **tensors)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}: .*{re.escape(message)}"):
        SteeringVector.load(file)


def test_a_file_that_llama_cpp_s_generator_cannot_have_written_is_not_shifted(
    tmp_path: Path,
) -> None:
    file = write_gguf(tmp_path / "v.gguf", direction_0=ONES)
    assert SteeringVector.load(file).layers == [0]
    with pytest.raises(ValueError, match=r"it has a direction\.0, .* cannot be shifted"):
        SteeringVector.load(file, shift=True)


def test_without_the_gguf_package_the_error_says_how_to_install_it(
    vector: SteeringVector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector.save(tmp_path / "v.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    for use in (vector.save, SteeringVector.load):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'faststeer\[gguf\]'"):
            use(tmp_path / "v.gguf")


def test_the_format_is_detected_from_the_content_not_the_name(
    vector: SteeringVector, tmp_path: Path
) -> None:
    for name, file_format in (("a.gguf", "safetensors"), ("b.pt", "gguf"), ("c", "lm-eval")):
        vector.save(tmp_path / name, file_format)
        assert equal(SteeringVector.load(tmp_path / name), vector)


def test_convert_makes_a_round_trip_through_every_format(
    vector: SteeringVector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    vector.save("a.safetensors")
    (tmp_path / "caa").mkdir()
    for steps in (
        "a.safetensors b.gguf",
        "b.gguf c.pt --format lm-eval",
        "c.pt caa",
        "caa d.safetensors",
        "b.gguf e.safetensors --shift",
        "b.gguf f.gguf --layers 1-2,13",
    ):
        monkeypatch.setattr(sys, "argv", ["faststeer", "convert", *steps.split()])
        with pytest.raises(SystemExit) as exit_:
            main.main()
        assert exit_.value.code == 0
    assert equal(SteeringVector.load("d.safetensors"), vector)
    assert SteeringVector.load("e.safetensors").layers == [0, 1, 12]
