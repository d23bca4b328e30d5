"""Detection of the CUDA toolkit: whether kernels are built, and for which architectures."""

from pathlib import Path

import pytest

import cuda_toolkit
from cuda_toolkit import Toolkit, choose

NVCC = """#!/bin/sh
case $1 in
  --version) echo "Cuda compilation tools, release {release}, V{release}.131" ;;
  --list-gpu-code) printf 'sm_%s\\n' {codes} ;;
esac
"""
ALL = "75 80 86 89 90 100 120"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on PATH, on a simulated machine without nvcc."""
    for name in ("CUDA_HOME", "FASTSTEER_CUDA", "FASTSTEER_CUDA_ARCHS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(cuda_toolkit, "DEFAULT_HOME", tmp_path / "cuda")
    return tmp_path


def put_nvcc(folder: Path, release: str = "13.0", codes: str = ALL) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    nvcc = folder / "nvcc"
    nvcc.write_text(NVCC.format(release=release, codes=codes))
    nvcc.chmod(0o755)
    return nvcc


def test_kernels_are_built_if_torch_has_cuda_and_nvcc_exists(folder: Path) -> None:
    assert choose("2.11.0", "13.0") == f"no nvcc was found on PATH or in {folder / 'cuda'}"
    put_nvcc(folder)
    assert choose("2.13.0+cpu", None) == "torch 2.13.0+cpu had no CUDA"
    toolkit = choose("2.11.0", "13.0")
    assert str(toolkit) == "nvcc 13.0.131 for sm_75, sm_80, sm_90, sm_100 and PTX compute_100"


def test_the_setting_overrides_the_detection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSTEER_CUDA", "1")
    with pytest.raises(SystemExit, match=r"no nvcc was found .* Install the CUDA toolkit"):
        choose("2.13.0+cpu", None)
    put_nvcc(folder)
    assert isinstance(choose("2.13.0+cpu", None), Toolkit)
    monkeypatch.setenv("FASTSTEER_CUDA", "0")
    assert choose("2.11.0", "13.0") == "FASTSTEER_CUDA was 0"
    monkeypatch.setenv("FASTSTEER_CUDA", "yes")
    with pytest.raises(SystemExit, match="'yes'; expected 0, 1 or nothing"):
        choose("2.11.0", "13.0")


def test_cuda_home_precedes_path_and_the_default_folder_comes_last(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert put_nvcc(folder / "cuda" / "bin") == cuda_toolkit.find_nvcc()
    assert put_nvcc(folder) == cuda_toolkit.find_nvcc()
    monkeypatch.setenv("CUDA_HOME", str(folder / "named"))
    assert (
        choose("2.11.0", "13.0") == f"CUDA_HOME was {folder / 'named'}, where there is no bin/nvcc"
    )
    assert put_nvcc(folder / "named" / "bin") == cuda_toolkit.find_nvcc()


def test_architectures_that_an_older_nvcc_lacks_are_left_out_with_a_message(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nvcc = put_nvcc(folder, "12.4", "75 80 86 89 90")
    toolkit = cuda_toolkit.find()
    assert toolkit.architectures == (75, 80, 90)
    assert toolkit.flags()[-1] == "-gencode=arch=compute_90,code=[sm_90,compute_90]"
    assert f"{nvcc} cannot compile for sm_100: left out" in capsys.readouterr().out
    put_nvcc(folder, "11.8")
    assert choose("2.11.0", "13.0") == f"{nvcc} is of CUDA 11.8, older than 12.0"


@pytest.mark.parametrize("asked", ["120,80", "80 120", "80;120"])
def test_architectures_can_be_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    put_nvcc(folder)
    monkeypatch.setenv("FASTSTEER_CUDA_ARCHS", asked)
    assert cuda_toolkit.find().flags() == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_120,code=[sm_120,compute_120]",
    ]


@pytest.mark.parametrize("asked", ["70", "80,native", "9.0", ","])
def test_architectures_that_nvcc_does_not_know_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    put_nvcc(folder)
    monkeypatch.setenv("FASTSTEER_CUDA_ARCHS", asked)
    with pytest.raises(SystemExit, match=rf"{asked!r}; expected numbers .* 75, 80, 86"):
        cuda_toolkit.find()
