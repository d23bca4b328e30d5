"""Packaging: the source distribution builds a wheel, and the wheel works elsewhere."""

import tarfile
import zipfile

import pytest
from built_wheel import ROOT, BuiltOnce, Installed, installed

USE = """
import torch, faststeer, faststeer.data.shipped
from faststeer import _C, ops
assert "site" in faststeer.__file__, faststeer.__file__
out, h = ops.steer_add_rms_norm(None, torch.ones(2, 8), torch.ones(8), 1e-5)
assert torch.allclose(out, torch.ones(2, 8), atol=1e-4)
assert len(faststeer.data.shipped.Behaviour.shipped("sentiment").pairs) == 40
assert len(faststeer.data.Trait.shipped("number").test) == 35
print(_C.isa())
"""


@pytest.fixture(scope="module")
def made(built_once: BuiltOnce) -> Installed:
    return installed(built_once)


def test_the_sdist_contains_the_sources_and_its_wheel_works(made: Installed) -> None:
    with tarfile.open(made.sdist) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.*")}
    assert sources <= inside
    assert {
        "setup.py",
        "cuda_toolkit.py",
        "README.md",
        "LICENSE",
        "faststeer/data/neutral.jsonl",
    } <= inside
    with zipfile.ZipFile(made.wheel) as archive:
        names = archive.namelist()
    assert any(name.startswith("faststeer/_C.") for name in names)
    assert {
        "faststeer/py.typed",
        "faststeer/_C.pyi",
        "faststeer/data/tense.json",
        "faststeer/experiments/report.html.jinja",
    } <= set(names)
    assert not any(name.startswith(("tests/", "benchmarks/", "csrc/")) for name in names)
    assert made.python(USE).strip()
