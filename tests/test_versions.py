"""What `make` installs is pinned, so that its commands give the same results later."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]


def pinned(*names: str) -> list[str]:
    """The packages that these files of constraints name."""
    lines = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)
    return [canonicalize_name(name) for name in re.findall(r"^([\w-]+)==", lines, re.MULTILINE)]


def test_every_package_of_pyproject_is_pinned_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    lines = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    lines += [line for extra in extras.values() for line in extra]
    wanted = {canonicalize_name(Requirement(line).name) for line in lines} - {"faststeer"}
    pins = pinned("constraints.txt")
    assert wanted - set(pins) == set()
    assert len(pins) == len(set(pins))


def test_every_installation_of_the_makefile_is_pinned_but_that_of_the_newest() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    installs = [line for line in text.splitlines() if "pip install" in line or "$(INSTALL)" in line]
    loose = [line for line in installs if " -c " not in line and "$(INSTALL)" not in line]
    assert len(installs) > 10
    assert loose
    assert all("--target $(NEWEST)" in line for line in loose)


def recipe(target: str, *variables: str) -> str:
    """What `make` would run for a target."""
    command = ["make", "-n", "-B", *variables, target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_an_active_environment_keeps_its_torch(tmp_path) -> None:
    """The recipe is run with an interpreter that says another torch is installed."""
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho torch==2.10.0+cu128\n")
    fake.chmod(0o755)
    (line,) = [
        line
        for line in recipe("build/constraints.txt", f"PYTHON={fake}", "PINS=build/constraints.txt")
        .splitlines()
        if "awk" in line
    ]
    merge = line.partition(" >")[0]
    done = subprocess.run(merge, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    pins = done.stdout.splitlines()
    assert [pin for pin in pins if pin.startswith("torch==")] == ["torch==2.10.0+cu128"]
    assert len(pins) == len(pinned("constraints.txt"))


def test_other_constraints_win_over_the_general_ones() -> None:
    (line,) = [line for line in recipe("build/constraints-parity.txt").splitlines() if "parity" in line and "awk" in line]
    merge = line.partition(" >")[0]
    done = subprocess.run(merge, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    pins = dict(pin.split("==") for pin in done.stdout.splitlines())
    assert pins["transformers"].startswith("4.57.")
    assert pins["numpy"].startswith("1.")
    assert pins["torch"]
