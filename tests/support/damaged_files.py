"""Load thousands of damaged files under a memory limit and print the outcomes as JSON.

A separate program, so that a crash is detected and the limit affects nothing else:
``python damaged_files.py FOLDER COUNT SEED``.
"""

from __future__ import annotations

import io
import json
import random
import resource
import sys
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import torch

from faststeer import SteeringVector

SPARE = 256 << 20  # bytes beyond those that the process uses when it starts

HOSTILE = [
    number.to_bytes(size, "little")
    for size in (4, 8)
    for number in (0, 1, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
] + [number.to_bytes(8, "little") for number in (2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)]


def mutated(content: bytes, dice: random.Random) -> bytes:
    """Return the data with up to four mutations: truncated, overwritten, inserted into or moved."""
    out = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        place, length = dice.randrange(len(out) + 1), dice.randrange(1, 9)
        kind = dice.randrange(6)
        if kind == 0 and dice.random() < 0.3:
            del out[place:]
        elif kind == 1:
            del out[place : place + length]
        elif kind == 2:
            hostile = dice.choice(HOSTILE)
            out[place : place + len(hostile)] = hostile
        elif kind == 3:
            start = dice.randrange(len(out) + 1)
            out[place:place] = out[start : start + 8 * length]
        else:
            piece = dice.choice((b"\x00", b"\xff", b"\x7f", b"\x80", dice.randbytes(1)))
            out[place : place + 1] = piece
    return bytes(out)


def damaged(content: bytes, dice: random.Random) -> bytes:
    """Return damaged data; for half of the zip files an entry in an otherwise intact archive."""
    if not content.startswith(b"PK") or dice.random() < 0.5:
        return mutated(content, dice)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            inner = old.read(entry)
            chosen = entry.filename.endswith("data.pkl") or dice.random() < 0.1
            new.writestr(entry.filename, mutated(inner, dice) if chosen else inner)
    return out.getvalue()


def seeds(folder: Path) -> list[Path]:
    """Return a tiny file of each format."""
    vector = SteeringVector("v", {1: torch.tensor([1.5, -2.0]), 3: torch.tensor([0.5, 4.0])})
    for name, file_format in (("v.safetensors", None), ("v.gguf", None), ("v.pt", "lm-eval")):
        vector.save(folder / name, file_format)
    vector.at(3).save(folder / "vec_layer_3.pt")
    return sorted(folder.iterdir())


def main(folder: Path, count: int, seed: int) -> None:
    """Load `count` damaged files, equally many of each format."""
    files = seeds(folder)
    contents = [file.read_bytes() for file in files]
    for file in files:
        SteeringVector.load(file)  # modules that are imported on first use are loaded now
    with open("/proc/self/statm") as statm:
        own = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + SPARE, own + SPARE))
    warnings.simplefilter("error", RuntimeWarning)
    dice, counts, slowest = random.Random(seed), Counter[str](), 0.0
    for number in range(count):
        file, content = files[number % 4], contents[number % 4]
        file.write_bytes(damaged(content, dice))
        start = time.perf_counter()
        try:
            vector = SteeringVector.load(file)
        except ValueError as error:
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, MemoryError) or "alloc" in str(cause):
                    raise
                cause = cause.__cause__ or cause.__context__
            counts[f"{file.name} refused"] += str(error).startswith(f"{file}: ")
            counts[f"{file.name} refused without a name"] += not str(error).startswith(f"{file}: ")
        else:
            assert all(direction.isfinite().all() for direction in vector.directions.values())
            counts[f"{file.name} read"] += 1
        slowest = max(slowest, time.perf_counter() - start)
    print(json.dumps({"slowest": slowest} | counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
