"""What the compiled kernels are: registers and spills as ptxas tells them, and instructions."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass

Key = tuple[str, str]  # architecture, mangled name


@dataclass(frozen=True)
class Needs:
    """Of one kernel on one architecture."""

    registers: int
    stack_bytes: int
    spilled_bytes: int


@dataclass(frozen=True)
class Instruction:
    """As LDG.E.EF.128 is: the operation, what modifies it, and how many bits each lane moves."""

    operation: str
    modifiers: frozenset[str]
    operands: str  # as listed; of a load, the register that it fills comes first

    @property
    def bits(self) -> int:
        sized = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}
        return next((bits for name, bits in sized.items() if name in self.modifiers), 32)

    @property
    def registers(self) -> set[int]:
        """Registers that it names."""
        return {int(number) for number in re.findall(r"\bR(\d+)\b", self.operands)}

    @property
    def filled(self) -> set[int]:
        """Registers that a load fills."""
        first = re.match(r"R(\d+)", self.operands)
        return set(range(int(first[1]), int(first[1]) + -(-self.bits // 32))) if first else set()


def needs(listing: str) -> dict[Key, Needs]:
    """From the output of `ptxas -v`."""
    found: dict[Key, Needs] = {}
    key: Key | None = None
    memory = (0, 0)
    for line in listing.splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            assert key is None, "the output of two ptxas is mixed up"
            key, memory = (entry[2], entry[1]), (0, 0)
        elif sizes := re.findall(r"(\d+) bytes (?:stack|spill)", line):
            stack, stores, loads = map(int, sizes)  # of the kernel, or of what it calls
            memory = (max(memory[0], stack), max(memory[1], stores + loads))
        elif key and (used := re.search(r"Used (\d+) registers", line)):
            found[key] = Needs(int(used[1]), *memory)
            key = None
    return found


def instructions(listing: str) -> dict[Key, list[Instruction]]:
    """From the output of `cuobjdump -sass`."""
    found: dict[Key, list[Instruction]] = defaultdict(list)
    architecture, kernel = "", ""
    for line in listing.splitlines():
        if code := re.match(r"\s*code for (\w+)", line):
            architecture = code[1]
        elif function := re.match(r"\s*Function : (\S+)", line):
            kernel = function[1]
        elif one := re.match(
            r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)\s*([^;]*)", line
        ):
            operation, *modifiers = one[1].split(".")
            listed = Instruction(operation, frozenset(modifiers), one[2].strip())
            found[architecture, kernel].append(listed)
    return dict(found)


def readable(names: set[str]) -> dict[str, str]:
    """Mangled names as `steer_norm_packed<float, float, float, 2, 1>`."""
    ordered = sorted(names)
    listing = subprocess.run(
        ["c++filt"], input="\n".join(ordered), capture_output=True, text=True, check=True
    ).stdout
    short = re.sub(r"^void |faststeer::|\((?:int|faststeer::\w+|bool)\)", "", listing, flags=re.M)
    return dict(zip(ordered, re.sub(r"\(.*$", "", short, flags=re.M).splitlines(), strict=True))


def arguments(name: str) -> list[str]:
    """Template arguments of a readable name."""
    return re.split(r", *", name[name.index("<") + 1 : -1])
