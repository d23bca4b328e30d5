"""All packages that `make` installs are pinned, for reproducible results."""

import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from places import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")


def pinned(*names: str) -> list[str]:
    """Return the packages that these constraint files name."""
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


def test_every_installation_of_the_makefile_except_the_newest_is_pinned() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    installs = [line for line in text.splitlines() if "pip install" in line or "$(INSTALL)" in line]
    loose = [line for line in installs if " -c " not in line and "$(INSTALL)" not in line]
    assert len(installs) > 10
    assert loose
    assert all("--target $(NEWEST)" in line for line in loose)


def merged(target: str, *variables: str) -> dict[str, str]:
    """Return the pins that `make` would write to a file: its recipe without the redirection."""
    command = ["make", "-n", "-B", *variables, target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    [line] = [line for line in done.stdout.splitlines() if line.endswith(f">{target}")]
    merge = line.rpartition(" >")[0]
    done = subprocess.run(merge, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    pins = dict(line.split("==", 1) for line in lines)
    assert len(pins) == len(lines)  # a package pinned twice is a conflict
    return pins


def test_an_active_environment_keeps_its_torch(tmp_path) -> None:
    """Its python3 reports another torch than the pinned one."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho torch==2.10.0+cu128\n")
    python.chmod(0o755)
    pins = merged("build/pins.txt", f"PYTHON={python}", "PINS=build/pins.txt")
    assert pins["torch"] == "2.10.0+cu128"
    assert set(pins) == set(pinned("constraints.txt"))
    own = merged("build/pins.txt", f"PYTHON={python}", "PINS=build/pins.txt", "CONSTRAINTS=")
    assert own == {"torch": "2.10.0+cu128"}


def test_the_oldest_transformers_and_the_peers_have_separate_pins() -> None:
    general = merged("build/constraints-oldest.txt")
    assert general["transformers"].startswith("4.57.")
    assert set(general) == set(pinned("constraints.txt"))
    peers = merged("build/constraints-parity.txt")
    assert peers["transformers"] == general["transformers"]
    assert set(peers) - set(general) == {"steering-vectors", "repeng"}
    assert peers["numpy"] != general["numpy"]
    assert peers["torch"] == general["torch"]
