"""The CUDA kernels without a GPU: tensors go to the driver beside this file, and come back."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from built_wheel import BuiltOnce
from compiling_kernels import PROGRAM, NoToolkitError, build
from launch_plans import BackwardPlan, MomentsPlan, SteerNormPlan
from layouts import storage_of
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # in the order of kernel_args.h
H100 = 132  # multiprocessors
SCRATCH_BYTES = 64 << 20  # of moments, as launch_plan.h has it


class Fault(Exception):
    """A kernel did what it must not; the message is the report."""


@dataclass(frozen=True)
class Started:
    """A kernel that ran: its name with template arguments, and its launch."""

    kernel: str
    blocks: int
    threads: int
    shared_bytes: int


class Emulator:
    """Runs kernels on tensors as they lie in memory, and writes into those that they write."""

    def __init__(self, program: Path) -> None:
        self.program = program
        self._process: subprocess.Popen[bytes] | None = None

    def steer_norm(
        self,
        x: Tensor | None,
        residual: Tensor,
        weight: Tensor | None,
        eps: float,
        vectors: Tensor | None,
        index: Tensor | None,
        coefficient: Tensor | None,
        out: Tensor | None,
        residual_out: Tensor,
        modes: Tensor | None = None,
        weight_offset: float = 0.0,
        inverse_rms: Tensor | None = None,
        *,
        multiprocessors: int = H100,
        most_blocks: int = 2**31 - 1,
        dropped_barrier: int = -1,
    ) -> list[Started]:
        """launch_steer_norm on tensors `[N, H]`; `most_blocks` is how many one grid may have."""
        memory = _Memory()
        tokens, hidden = residual.shape
        entries = 0 if index is None else index.shape[1]
        words = [multiprocessors, most_blocks, dropped_barrier, tokens, hidden, eps]
        words.append(weight_offset)
        words += [0 if vectors is None else len(vectors), entries]
        words.append(1 if index is None else tokens // max(len(index), 1))
        for rows in (residual, x, weight, vectors, out, residual_out):
            words += memory.rows(rows)
        for values in (index, coefficient, modes, inverse_rms):
            words += memory.place(values)
        return self._start("steer_norm", memory, words)

    def backward(
        self,
        grad_out: Tensor | None,
        grad_residual: Tensor | None,
        h: Tensor | None,
        weight: Tensor | None,
        inverse_rms: Tensor | None,
        weight_offset: float,
        vectors: Tensor | None,
        index: Tensor | None,
        coefficient: Tensor | None,
        grad_h: Tensor | None,
        grad_x: Tensor | None,
        grad_weight: Tensor | None,
        grad_vectors: Tensor | None,
        grad_coefficient: Tensor | None,
        *,
        dropped_barrier: int = -1,
        wave_bytes: int = 64 << 20,
    ) -> list[Started]:
        """launch_backward on tensors `[N, H]`; the last five are written, where given."""
        memory = _Memory()
        gradient = grad_residual if grad_out is None else grad_out
        words = [dropped_barrier, wave_bytes, *gradient.shape, weight_offset]
        words.append(0 if vectors is None else len(vectors))
        words += [0, 0] if index is None else index.shape
        for rows in (grad_out, grad_residual, h, weight, vectors):
            words += memory.rows(rows)
        for rows in (grad_h, grad_x, grad_weight, grad_vectors):
            words += memory.rows(rows)
        for values in (inverse_rms, index, coefficient, grad_coefficient):
            words += memory.place(values)
        return self._start("backward", memory, words)

    def moments(
        self,
        x: Tensor,
        group: Tensor | None,
        count: Tensor,
        mean: Tensor,
        m2: Tensor,
        *,
        dropped_barrier: int = -1,
        of_kernel: int = -1,
        scratch_bytes: int = SCRATCH_BYTES,
    ) -> list[Started]:
        """launch_moments of the rows of `x` `[N, H]`; of one kernel or all a barrier is dropped."""
        memory = _Memory()
        words = [dropped_barrier, of_kernel, scratch_bytes, *x.shape, len(count), *memory.rows(x)]
        for values in (group, count, mean, m2):
            words += memory.place(values)
        return self._start("moments", memory, words)

    def faulty(self, fault: str, memory: Tensor) -> list[Started]:
        """A kernel of faulty.cu on two blocks of 64 threads, with 256 bytes of shared memory."""
        place = _Memory()
        place.place(memory)
        return self._start("faulty", place, [fault])

    def plan_steer_norm(
        self,
        tokens: int,
        hidden: int,
        *,
        element_size: int = 2,
        entries: int = 0,
        stored: int = 1,
        tokens_per_setting: int = 1,
        modes: bool = False,
        aligned: bool = True,
        multiprocessors: int = H100,
        resident_threads: int = 2048,
        resident_shared_bytes: int = 228 << 10,
    ) -> SteerNormPlan:
        problem = (tokens, hidden, element_size, entries, stored, tokens_per_setting)
        gpu = (multiprocessors, resident_threads, resident_shared_bytes)
        words = (*problem, int(modes), int(aligned), *gpu)
        return SteerNormPlan(*self._plan("plan_steer_norm", words))

    def plan_moments(
        self,
        tokens: int,
        hidden: int,
        groups: int,
        address: int,
        stride: int,
        dtype: torch.dtype,
        scratch_bytes: int = SCRATCH_BYTES,
    ) -> MomentsPlan:
        problem = (tokens, hidden, groups, address, stride, DTYPES.index(dtype), scratch_bytes)
        return MomentsPlan(*self._plan("plan_moments", problem))

    def plan_backward(
        self, tokens: int, hidden: int, stored: int, settings: int, entries: int, dtype: torch.dtype
    ) -> BackwardPlan:
        words = (tokens, hidden, stored, settings, entries, DTYPES.index(dtype))
        return BackwardPlan(*self._plan("plan_backward", words))

    def symbols(self) -> list[str]:
        """Names of all functions in the driver, as C++ writes them."""
        command = ["nm", "--demangle", "--defined-only", "--format=just-symbols", self.program]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )

    def _plan(self, request: str, words: tuple[int, ...]) -> list[int]:
        self._send(_line(request, words))
        return [int(word) for word in self._receive_line().split()]

    def _start(self, request: str, memory: _Memory, words: list) -> list[Started]:
        sizes = [len(storage) for storage in memory.storages]
        line = _line(request, (len(sizes), *sizes, *words))
        self._send(line + b"".join(storage.numpy().tobytes() for storage in memory.storages))
        started = []
        for _ in range(int(self._receive_line())):
            kernel, *launch = self._receive_line().split("\t")
            started.append(Started(kernel, *map(int, launch)))
        for storage in memory.storages:
            if len(storage) > 0:
                storage.copy_(torch.frombuffer(self._receive(len(storage)), dtype=torch.uint8))
        return started

    def _send(self, request: bytes) -> None:
        if self._process is None:
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process does
            self._process = subprocess.Popen(
                [self.program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=os.environ | {"ASAN_OPTIONS": "detect_leaks=0"},
            )
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
        except BrokenPipeError:
            self._raise_report()

    def _receive(self, size: int) -> bytearray:
        answer = bytearray(self._process.stdout.read(size))
        if len(answer) < size:
            self._raise_report()
        return answer

    def _receive_line(self) -> str:
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            self._raise_report()
        return line.decode().rstrip("\n")

    def _raise_report(self) -> None:
        self._process.wait()
        self._process = None
        self._stderr.seek(0)
        raise Fault(self._stderr.read().decode())


@cache
def shared_emulator(built_once: BuiltOnce) -> Emulator:
    """One a process. Without a toolkit the tests are skipped; where CI is set they fail."""
    try:
        return Emulator(built_once("driver", build) / PROGRAM)
    except NoToolkitError as error:
        if "CI" in os.environ:
            pytest.fail(str(error))
        pytest.skip(str(error))


def _line(request: str, words: tuple) -> bytes:
    return (" ".join([request, *map(str, words)]) + "\n").encode()


class _Memory:
    """The storages of tensors, and where in them each tensor lies."""

    def __init__(self) -> None:
        self.storages: list[Tensor] = []  # as bytes
        self._known: dict[int, int] = {}

    def place(self, tensor: Tensor | None) -> list[int]:
        """The number of a storage, or -1, and the bytes before the tensor."""
        if tensor is None:
            return [-1, 0]
        address = tensor.untyped_storage().data_ptr()
        known = self._known.setdefault(address, len(self.storages))
        if known == len(self.storages):
            self.storages.append(storage_of(tensor))
        return [known, tensor.storage_offset() * tensor.element_size()]

    def rows(self, tensor: Tensor | None) -> list[int]:
        """Place, stride in elements and dtype."""
        if tensor is None:
            return [-1, 0, 0, 0]
        several = tensor.dim() == 2 and len(tensor) > 1
        stride = tensor.stride(0) if several else tensor.shape[-1]  # as View::row_stride has it
        return [*self.place(tensor), stride, DTYPES.index(tensor.dtype)]
