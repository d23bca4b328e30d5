"""Builds faststeer._C and faststeer._cuda with ninja, one set of compiler flags a file.

torch's own BuildExtension gives every source the same flags, but each SIMD file needs its
instruction set and no other file may have it; and it takes no .cu files where torch has no CUDA. So
the few rules are written out here.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.append(str(Path(__file__).parent))  # a build by PEP 517 does not look here

import cuda_toolkit
from cuda_toolkit import Toolkit

ROOT = Path(__file__).parent
CSRC = ROOT / "csrc"
TORCH_ABI_TARGET = "0x020a000000000000"  # torch 2.10: one build serves it and all later ones
X86 = platform.machine() in ("x86_64", "AMD64")

# The kernels of one instruction set each. No other file may have these flags.
ISA_FLAGS: dict[str, list[str]] = {"kernels_portable.cpp": []}
if X86:
    ISA_FLAGS["kernels_avx2.cpp"] = ["-mavx2", "-mfma", "-mf16c"]
    ISA_FLAGS["kernels_avx512.cpp"] = [f"-mavx512{part}" for part in ("f", "bw", "vl", "dq")]


def sources_in(folder: str) -> list[str]:
    """Return a folder's sources for this architecture, relative to csrc/."""
    found = [path for kind in ("cpp", "cu") for path in sorted((CSRC / folder).glob(f"*.{kind}"))]
    return [
        str(path.relative_to(CSRC))
        for path in found
        if not path.name.startswith("kernels_") or path.name in ISA_FLAGS
    ]


# Each library has the common floor, its kernels and its registration.
BINDINGS = sources_in("bindings")
CUDA_ONLY = "bindings/register_cuda.cpp"
IN_BOTH = [
    f"bindings/{name}.cpp" for name in ("backward_tensors", "entry_tables", "stable_tensors")
]
SOURCES = [*sources_in("common"), *sources_in("cpu"), "module.cpp"]
SOURCES += [name for name in BINDINGS if name != CUDA_ONLY]
CUDA_SOURCES = [*sources_in("common"), *sources_in("cuda"), CUDA_ONLY, *IN_BOTH]
CUDA_LIBRARY = "faststeer._cuda"


def flags_of(source: str, cuda: Toolkit | str) -> list[str]:
    """Flags beyond the common ones."""
    if source.endswith(".cu"):
        return []
    name = Path(source).name
    isa = ISA_FLAGS.get(name)
    if name == "dlpack_views.cpp":  # torch's stable target forbids DLPack's header
        return []
    if isa is None:
        flags = [f"-DTORCH_TARGET_VERSION={TORCH_ABI_TARGET}"]
        if source == CUDA_ONLY:
            flags.append("-DUSE_CUDA")
        if source == "module.cpp":
            built = isinstance(cuda, Toolkit)
            flags.append(define("FASTSTEER_CUDA_BUILT", str(cuda) if built else ""))
            flags.append(define("FASTSTEER_CUDA_ABSENT", "" if built else str(cuda)))
        return flags
    # The contract forbids fused multiply-add in the sum of vectors. g++ 12 sees uninitialised
    # values inside its own AVX-512 intrinsics (gcc bug 105593).
    quiet = ["-Wno-uninitialized"]
    if "clang" not in compiler_name():
        quiet.append("-Wno-maybe-uninitialized")
    return [*isa, "-ffp-contract=off", *quiet]


def define(name: str, text: str) -> str:
    """A flag that makes `name` a string in C, as ninja and the shell read it."""
    return shlex.quote(f"-D{name}={json.dumps(text)}").replace("$", "$$")


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
        define("FASTSTEER_TORCH_VERSION", torch.__version__),
        define("FASTSTEER_COMPILER", compiler_name()),
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


def nvcc_rules(cuda: Toolkit) -> list[str]:
    """How .cu files are compiled, and linked by nvcc, which knows its own libraries.

    CUDA's runtime is linked statically and kept from view: torch's own, which may be of another
    version, then never stands in for it. libtorch.so has to stay among the needed libraries though
    nothing of it is used, because on a torch with CUDA it leads to the stream getter.
    """
    nvcc = shlex.quote(str(cuda.nvcc))
    if "CXX" in os.environ:
        nvcc += f" -ccbin={shlex.quote(compiler())}"
    host = "-Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra"
    return [
        "rule compile_cuda",
        f"  command = {nvcc} -std=c++20 -O3 --threads=0 {shlex.join(cuda.flags())} {host} "
        f"-I'{CSRC.resolve()}' -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "rule link_cuda",
        f"  command = {nvcc} --no-device-link -cudart=static $in "
        f"-Xlinker --no-as-needed,--exclude-libs=ALL {' '.join(link_flags())} -o $out",
    ]


class NinjaBuild(build_ext):
    """Compiles csrc/ in parallel and links it against the torch that is installed."""

    def build_extensions(self) -> None:
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        try:
            import torch

            cuda = cuda_toolkit.choose(torch.__version__, torch.version.cuda)
            if not isinstance(cuda, Toolkit):
                print(f"faststeer: without CUDA kernels: {cuda}")
                self.extensions = [ext for ext in self.extensions if ext.name != CUDA_LIBRARY]
                Path(self.get_ext_fullpath(CUDA_LIBRARY)).unlink(missing_ok=True)
            (build / "build.ninja").write_text(self.rules(build, cuda))
            subprocess.run([sys.executable, "-m", "ninja", "-C", str(build)], check=True)
        except ModuleNotFoundError as error:
            raise SystemExit(
                f"building faststeer needs {error.name}: pip install pybind11 ninja, and torch "
                "2.10 or later"
            ) from error

    def rules(self, build: Path, cuda: Toolkit | str) -> str:
        lines = [
            "rule compile",
            f"  command = {compiler()} {' '.join(common_flags())} $flags -MMD -MF $out.d "
            "-c $in -o $out",
            "  depfile = $out.d",
            "rule link",
            f"  command = {compiler()} $in {' '.join(link_flags())} -o $out",
        ]
        if isinstance(cuda, Toolkit):
            lines += nvcc_rules(cuda)
        compiled: dict[str, str] = {}
        for extension in self.extensions:
            for source in extension.sources:
                if source in compiled:
                    continue
                name = str(Path(source).relative_to("csrc"))
                compiled[source] = quoted(build / (name.replace("/", "_") + ".o"))
                rule = "compile_cuda" if name.endswith(".cu") else "compile"
                lines.append(f"build {compiled[source]}: {rule} {quoted((CSRC / name).resolve())}")
                lines.append(f"  flags = {' '.join(flags_of(name, cuda))}")
            target = Path(self.get_ext_fullpath(extension.name)).resolve()
            target.parent.mkdir(parents=True, exist_ok=True)
            rule = "link_cuda" if extension.name == CUDA_LIBRARY else "link"
            objects = " ".join(compiled[source] for source in extension.sources)
            lines.append(f"build {quoted(target)}: {rule} {objects}")
        return "\n".join(lines) + "\n"


setup(
    ext_modules=[
        Extension("faststeer._C", [f"csrc/{source}" for source in SOURCES]),
        Extension(CUDA_LIBRARY, [f"csrc/{source}" for source in CUDA_SOURCES]),
    ],
    cmdclass={"build_ext": NinjaBuild},
)
