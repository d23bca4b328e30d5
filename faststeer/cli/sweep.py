"""The command `faststeer sweep`: measure vectors at every layer and coefficient."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from faststeer.cli import options


def sweep(
    vector: Annotated[list[Path], typer.Option(help="Vector file; repeatable.")],
    coefficients: Annotated[str, typer.Option(help="Such as -2,-1,1,2; 0 is always measured.")],
    output: Annotated[Path, typer.Option(help="Folder for results.jsonl and summary.json.")],
    model: options.ModelOption,
    layers: options.SeveralLayersOption = "all",
    behaviour: Annotated[
        str | None, typer.Option(help="Score answers: such as myopic, or a file of questions.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Your own folder, for --behaviour.")] = None,
    part: Annotated[
        str, typer.Option(help="Part of the questions: all, train, validation or test.")
    ] = "validation",
    seed: Annotated[int, typer.Option(help="Seed of the shuffle before questions are split.")] = 13,
    documents: Annotated[
        list[str] | None,
        typer.Option(
            help="Score next tokens: NAME=PATH, repeatable. A layer ends once the accuracy on the "
            "first is lost."
        ),
    ] = None,
    max_length: Annotated[int, typer.Option(help="Truncate documents to this many tokens.")] = 256,
    items: Annotated[
        int | None, typer.Option(min=1, help="At most this many questions, or documents per set.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per forward pass.")] = 8,
    at_once: Annotated[int, typer.Option(min=1, help="Settings per forward pass.")] = 8,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
) -> None:
    """Measure vectors at layers and coefficients; an interrupted sweep resumes where it stopped."""
    from faststeer.evaluate import sweeping
    from faststeer.vectors.steering_vector import SteeringVector

    numbers, strengths = options.layer_numbers(layers), options.coefficients_in(coefficients)
    if (behaviour is None) == (documents is None):
        raise ValueError("give either --behaviour or --documents")
    task: Any
    if behaviour is not None:
        task = _choices_task(behaviour, data, part, seed, items)
    else:
        task = _documents_task(documents or [], max_length, items)
    vectors = [SteeringVector.load(path) for path in vector]
    options.require_writable(output)
    loaded = options.load(model, device, dtype, None)
    options.require_tokenizer(loaded)
    console = Console()
    records = sweeping.sweep(
        loaded.model,
        loaded.tokenizer,
        task,
        vectors,
        layers=numbers,
        coefficients=strengths,
        output=output,
        seed=None if behaviour is None else seed,
        batch_size=batch_size,
        at_once=at_once,
        progress=console.is_terminal,
    )
    console.print(_table(records))
    console.print(
        f"wrote {output / sweeping.SUMMARY}", soft_wrap=True, markup=False, highlight=False
    )


def _choices_task(name: str, data: Path | None, part: str, seed: int, items: int | None) -> Any:
    from faststeer.data import behaviour as by_name
    from faststeer.data.questions import part_of, read_choices
    from faststeer.evaluate.tasks import ChoicesTask

    file = Path(name) if data is None and Path(name).is_file() else by_name(name, data).path
    return ChoicesTask(Path(name).stem, part_of(read_choices(file), part, seed)[:items])


def _documents_task(given: list[str], max_length: int, items: int | None) -> Any:
    from faststeer.data import Documents
    from faststeer.evaluate.tasks import DocumentsTask

    sets: dict[str, list[str]] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not name or not equals or name in sets:
            raise ValueError(f"--documents {text!r}: expected NAME=PATH, each name once")
        sets[name] = list(islice(Documents(path), items))
    return DocumentsTask(sets, next(iter(sets)), max_length)


def _table(records: list[Any]) -> Table:
    """Return a table with one line per setting: scores of choices, or accuracy per document set."""
    table = Table()
    first = _flat(records[0]["scores"])
    for heading in ("steering", *first):
        left = heading == "steering"
        table.add_column(heading, justify="left" if left else "right", no_wrap=left)
    for record in records:
        steering = [
            f"{name} {coefficient:+g} at {layer}"
            for name, coefficients in record["steering"].items()
            for layer, coefficient in coefficients.items()
        ]
        cells = ["-" if v is None else f"{v:.4g}" for v in _flat(record["scores"]).values()]
        table.add_row(", ".join(steering) or "unsteered", *cells)
    return table


def _flat(scores: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in scores.items():
        if isinstance(value, dict):
            flat |= {f"{name} {key}": value[key] for key in ("accuracy", "relative")}
        else:
            flat[name] = value
    return flat
