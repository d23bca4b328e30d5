"""Measure what steering costs on a model: stock, plain hooks and faststeer in alternation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Column, Table
from torch import nn

from faststeer.diagnostics.bench.phases import PHASES, phases_for, samples_per_round
from faststeer.diagnostics.bench.timing import OtherLoad, Ratio, Samples
from faststeer.diagnostics.bench.variants import IDLE, STOCK, per_row_steering, variants_of
from faststeer.models.decoders import find_decoder
from faststeer.models.inference import device_of, random_ids
from faststeer.models.loading import Loaded
from faststeer.utils.machine import machine_facts
from faststeer.utils.progress import Advance, progress_bar


@dataclass(frozen=True)
class Settings:
    """The size of a measurement; decoding, too, starts from a cache of `prompt_tokens` tokens."""

    batch_sizes: tuple[int, ...] = (1,)
    prompt_tokens: int = 128
    new_tokens: int = 16
    rounds: int = 7
    compiled: bool = False  # also time decode steps with torch.compile


@dataclass(frozen=True)
class Row:
    """One line of the results. Ratios are medians of the per-round ratios; above 1 is slower.

    The middle half of the rounds' ratios to stock lies between the quartiles.
    """

    phase: str
    batch_size: int
    variant: str
    milliseconds: float
    against_stock: float
    against_idle: float
    lower_quartile: float
    upper_quartile: float

    def ratio(self, rounds: int) -> Ratio:
        """Return the ratio to stock with its scatter."""
        return Ratio(self.against_stock, self.lower_quartile, self.upper_quartile, rounds)


def measure(model: nn.Module, settings: Settings, advance: Advance) -> list[Row]:
    """Time every variant in every phase at each batch size."""
    variants = variants_of(model)
    rounds, new_tokens = settings.rounds, settings.new_tokens
    rows = []
    for batch_size in settings.batch_sizes:
        ids = random_ids(model, batch_size, settings.prompt_tokens)
        with per_row_steering(variants, batch_size):
            for phase in phases_for(ids.device, settings.compiled):
                samples = PHASES[phase](variants, ids, new_tokens, rounds, advance)
                rows += [_row(phase, batch_size, name, samples) for name in samples.seconds]
    return rows


def run(loaded: Loaded, settings: Settings, console: Console) -> dict[str, Any]:
    """Measure, print a table, and return the record for a file, without paths or host names.

    Raises:
        ValueError: `patch` refuses the model.
    """
    find_decoder(loaded.model)
    facts: dict[str, Any] = {
        "machine": machine_facts(),
        "device": _device_name(device_of(loaded.model)),
        "model": _model_facts(loaded),
        "settings": asdict(settings),
    }
    per_round = samples_per_round(phases_for(device_of(loaded.model), settings.compiled))
    turns = (settings.rounds + 1) * per_round * len(settings.batch_sizes)
    other_load = OtherLoad()
    with progress_bar("measuring", turns, console.is_terminal) as advance:
        rows = measure(loaded.model, settings, advance)
    other_cores = other_load.cores()
    facts["machine"]["cores_elsewhere"] = None if other_cores is None else round(other_cores, 2)
    for section in ("machine", "model", "settings"):
        line = ", ".join(f"{name} {value}" for name, value in facts[section].items())
        console.print(line, soft_wrap=True, highlight=False)
    console.print(_table(rows, settings.rounds))
    return facts | {"results": [asdict(row) for row in rows]}


def _row(phase: str, batch_size: int, name: str, samples: Samples) -> Row:
    stock, idle = (samples.speedup(peer, over=name) for peer in (STOCK, IDLE))
    low, high = samples.ratio_quartiles(name, STOCK)
    return Row(phase, batch_size, name, samples.median(name) * 1e3, stock, idle, low, high)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _model_facts(loaded: Loaded) -> dict[str, str | int]:
    config: Any = loaded.model.config
    weights = next(loaded.model.parameters())
    return {
        "name": Path(loaded.name).name if Path(loaded.name).exists() else loaded.name,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "dtype": str(weights.dtype).removeprefix("torch."),
    }


def _table(rows: list[Row], rounds: int) -> Table:
    """Return a table of ratios with the milliseconds of stock.

    Milliseconds of others and ratios to idle are in the record: as medians of their own they would
    contradict the ratios to stock.
    """
    columns = [Column("phase", max_width=9), Column("batch", justify="right")]
    columns.append(Column("variant", no_wrap=True))
    for name in ("times\nstock", "middle half\nof rounds"):
        columns.append(Column(name, justify="right", no_wrap=True))
    verdict = Column("", min_width=10)  # all of it fits 80 columns
    table = Table(*columns, verdict, box=box.SIMPLE, padding=0)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        cells = [f"{row.milliseconds:.2f} ms"]
        if row.variant != STOCK:
            ratio = row.ratio(rounds)
            cells = [f"{ratio.median:.3f}", ratio.middle_half, ratio.verdict]
        table.add_row(
            row.phase,
            str(row.batch_size),
            row.variant,
            *cells,
            end_section=following is None or following.phase != row.phase,
        )
    return table
