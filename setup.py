"""Builds faststeer._C with ninja, one set of compiler flags a file.

torch's own BuildExtension gives every source the same flags, but each SIMD file needs its
instruction set and no other file may have it; so the few rules are written out here.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
CSRC = ROOT / "csrc"
TORCH_ABI_TARGET = "0x020a000000000000"  # torch 2.10: one build serves it and all later ones
X86 = platform.machine() in ("x86_64", "AMD64")

ISA_FLAGS = {"steer_norm_portable.cpp": []}
if X86:
    ISA_FLAGS["steer_norm_avx2.cpp"] = ["-mavx2", "-mfma", "-mf16c"]
    ISA_FLAGS["steer_norm_avx512.cpp"] = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]

SOURCES = ["module.cpp", "ops.cpp", "direct.cpp", "tensors.cpp", "call.cpp", "view.cpp"]
SOURCES += ["cpu/isa.cpp", "cpu/run.cpp"]
SOURCES += [f"cpu/{name}" for name in ISA_FLAGS]


def flags_of(source: str) -> list[str]:
    """Flags beyond the common ones."""
    isa = ISA_FLAGS.get(Path(source).name)
    if source == "direct.cpp":  # DLPack's header refuses to be read under torch's stable target
        return []
    if isa is None:
        return [f"-DTORCH_TARGET_VERSION={TORCH_ABI_TARGET}"]
    # The contract forbids fused multiply-add in the sum of vectors. g++ 12 sees uninitialised
    # values inside its own AVX-512 intrinsics (gcc bug 105593).
    quiet = ["-Wno-uninitialized"]
    if "clang" not in compiler_name():
        quiet.append("-Wno-maybe-uninitialized")
    return [*isa, "-ffp-contract=off", *quiet]


def compiler() -> str:
    return os.environ.get("CXX", "c++")


def compiler_name() -> str:
    lines = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True)
    return lines.stdout.splitlines()[0]


def quoted(path: object) -> str:
    """A path as ninja reads it."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def common_flags() -> list[str]:
    """Compiler flags of every file."""
    import pybind11
    import torch
    from torch.utils import cpp_extension

    system = [pybind11.get_include(), *cpp_extension.include_paths()]
    system.append(sysconfig.get_path("include"))
    return [
        *("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"),
        f"-DFASTSTEER_TORCH_VERSION='\"{torch.__version__}\"'",
        f"-DFASTSTEER_COMPILER='\"{compiler_name()}\"'",
        f"-I'{CSRC.resolve()}'",
        *(f"-isystem '{path}'" for path in system),
    ]


def link_flags() -> list[str]:
    """Linker flags; torch's libraries are found at run time because torch is imported first."""
    from torch.utils import cpp_extension

    flags = ["-shared", *(f"-L'{path}'" for path in cpp_extension.library_paths())]
    if sys.platform == "darwin":
        flags.append("-undefined dynamic_lookup")
    return [*flags, "-lc10", "-ltorch", "-ltorch_cpu"]


class NinjaBuild(build_ext):
    """Compiles csrc/ in parallel and links it against the torch that is installed."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        build.mkdir(parents=True, exist_ok=True)
        try:
            (build / "build.ninja").write_text(self.rules(build, target))
            subprocess.run([sys.executable, "-m", "ninja", "-C", str(build)], check=True)
        except ModuleNotFoundError as error:
            raise SystemExit(
                f"building faststeer needs {error.name}: pip install pybind11 ninja, and torch "
                "2.10 or later"
            ) from error

    @staticmethod
    def rules(build: Path, target: Path) -> str:
        common = " ".join(common_flags())
        lines = [
            "rule compile",
            f"  command = {compiler()} {common} $flags -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "rule link",
            f"  command = {compiler()} $in {' '.join(link_flags())} -o $out",
        ]
        objects = [quoted(build / (source.replace("/", "_") + ".o")) for source in SOURCES]
        for source, compiled in zip(SOURCES, objects, strict=True):
            lines.append(f"build {compiled}: compile {quoted((CSRC / source).resolve())}")
            lines.append(f"  flags = {' '.join(flags_of(source))}")
        lines.append(f"build {quoted(target)}: link {' '.join(objects)}")
        return "\n".join(lines) + "\n"


setup(
    ext_modules=[Extension("faststeer._C", [f"csrc/{source}" for source in SOURCES])],
    cmdclass={"build_ext": NinjaBuild},
)
