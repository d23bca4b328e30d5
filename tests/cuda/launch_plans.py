"""The launch plans that the driver answers with: the fields of csrc/cuda/launch_plan.h."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SteerNormPlan:
    packed: bool
    steering: int
    packs: int
    threads: int
    blocks: int
    rows_a_block: int
    shared_bytes: int


@dataclass(frozen=True)
class MomentsPlan:
    packed: bool
    rows_a_split: int
    splits: int
    column_tiles: int
    splits_a_step: int
    groups_a_step: int
    scratch_doubles: int


@dataclass(frozen=True)
class BackwardPlan:
    packed: bool
    threads: int
    shared_bytes: int
    blocks: int
    rows_a_block: int
    parts: int
    settings_a_block: int
    segments: int
    blocks_a_wave: int
    splits: int
    scratch_bytes: int
