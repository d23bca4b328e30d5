"""The processes that torchrun started, if it did."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def process_group() -> Iterator[dist.ProcessGroup | None]:
    """All processes of this torchrun; None where there is one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield None
        return
    dist.init_process_group()  # gloo for the CPU, NCCL for GPUs
    try:
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


def own_device(device: str) -> str:
    """Of "cuda" the GPU that is this process's among those on its machine; else `device`."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if device == "cuda" and rank is not None else device


def first() -> bool:
    """Whether this process is the one that speaks and writes."""
    return int(os.environ.get("RANK", "0")) == 0
