"""The peers' source distributions, which carry their tests, in the installed versions."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path


def unpacked_tests(package: str, folder: Path) -> Path:
    """Return the folder around `tests` of the installed version of `package`.

    The source distribution is downloaded with pip and unpacked into `folder` the first time.

    Raises:
        RuntimeError: pip failed, or the distribution carries no tests.
    """
    name = f"{package}-{version(package)}"
    root = folder / name
    if root.is_dir():
        return root
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", "-q", *options, name.replace("-", "==")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip could not download the sdist of {name}:\n{done.stderr[-2000:]}")
    part = folder / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    with tarfile.open(folder / f"{name}.tar.gz") as archive:
        inside = [member for member in archive if member.name.startswith(f"{name}/tests/")]
        if not inside:
            raise RuntimeError(f"the sdist of {name} carries no tests")
        archive.extractall(part, members=inside)
    # PEFT's tests import each other relatively, but the sdist omits their `__init__.py`.
    (part / name / "tests" / "__init__.py").touch()
    (part / name).rename(root)
    part.rmdir()
    return root
