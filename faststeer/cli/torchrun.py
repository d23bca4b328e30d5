"""Use the processes that torchrun started, if any: their group, ranks and devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def process_group() -> Iterator[dist.ProcessGroup | None]:
    """Initialise and yield the group of all processes; yield None if there is only one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield None
        return
    dist.init_process_group()  # gloo for the CPU, NCCL for GPUs
    try:
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


def local_device(device: str) -> str:
    """Return this process's GPU on its machine for "cuda", and any other `device` unchanged."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if device == "cuda" and rank is not None else device


def is_first_process() -> bool:
    """Return whether this process, of rank 0, prints and writes files."""
    return int(os.environ.get("RANK", "0")) == 0
