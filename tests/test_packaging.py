"""What users install: the source distribution builds a wheel, and the wheel works elsewhere."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

USE = """
import torch, faststeer, faststeer.behaviours
from faststeer import _C, ops
assert "site" in faststeer.__file__, faststeer.__file__
out, h = ops.steer_add_rms_norm(None, torch.ones(2, 8), torch.ones(8), 1e-5)
assert torch.allclose(out, torch.ones(2, 8), atol=1e-4)
assert len(faststeer.behaviours.Behaviour.shipped("sentiment").pairs) == 40
print(_C.isa())
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return result.stdout


def test_the_sdist_holds_the_sources_and_its_wheel_works(tmp_path) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", "-o", str(tmp_path), str(ROOT), cwd=ROOT)
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as archive:
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
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert any(name.startswith("faststeer/_C.") for name in names)
    assert {"faststeer/py.typed", "faststeer/_C.pyi", "faststeer/data/tense.json"} <= set(names)
    assert not any(name.startswith(("tests/", "benchmarks/", "csrc/")) for name in names)

    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    run(*pip, str(wheel), cwd=tmp_path)
    assert run(sys.executable, "-c", USE, cwd=tmp_path, PYTHONPATH=str(site)).strip()
