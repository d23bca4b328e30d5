"""The command `faststeer sweep`: measure vectors at every layer and coefficient."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from faststeer.cli import chat_options, options
from faststeer.cli.sweep_table import explained, sweep_table


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
    pairs: Annotated[
        Path | None,
        typer.Option(help='Score pairs: JSONL of {"positive": ..., "negative": ...}.'),
    ] = None,
    documents: Annotated[
        list[str] | None,
        typer.Option(
            help="Score next tokens: NAME=PATH, repeatable. A layer ends once the accuracy on the "
            "first is lost."
        ),
    ] = None,
    max_length: Annotated[int, typer.Option(help="Truncate documents to this many tokens.")] = 256,
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask the questions in the model's chat template.")
    ] = False,
    system: chat_options.SystemOption = None,
    template: chat_options.TemplateOption = None,
    items: Annotated[
        int | None,
        typer.Option(min=1, help="At most this many questions or pairs, or documents per set."),
    ] = None,
    damage: Annotated[
        bool,
        typer.Option(help="Measure perplexity and KL on shipped neutral prose too."),
    ] = True,
    figure: Annotated[
        Path | None, typer.Option(help="Picture of scores over coefficients: PNG, SVG or PDF.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per forward pass.")] = 8,
    at_once: Annotated[int, typer.Option(min=1, help="Settings per forward pass.")] = 8,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
) -> None:
    """Measure vectors at layers and coefficients; an interrupted sweep resumes where it stopped."""
    from faststeer.data.questions import choices_in_chat
    from faststeer.data.shipped import neutral_texts
    from faststeer.evaluate import sweeping
    from faststeer.evaluate.damage_task import WithDamage
    from faststeer.vectors.stated_use import warn_of_other_template
    from faststeer.vectors.steering_vector import SteeringVector

    numbers, strengths = options.layer_numbers(layers), options.coefficients_in(coefficients)
    if sum(own is not None for own in (behaviour, documents, pairs)) != 1:
        raise ValueError("give one of --behaviour, --pairs and --documents")
    chats = chat_options.ChatOptions.parse(chat, system, template)
    if chat and behaviour is None:
        raise ValueError("--chat goes with --behaviour, not with --pairs or --documents")
    task: Any
    if behaviour is not None:
        task = _choices_task(behaviour, data, part, seed, items)
    elif pairs is not None:
        task = _pairs_task(pairs, max_length, items)
    else:
        task = _documents_task(documents or [], max_length, items)
    if figure is not None:
        options.require_picture(figure)
    vectors = [SteeringVector.load(path) for path in vector]
    options.require_writable(output)
    loaded = options.load(model, device, dtype, None)
    options.require_tokenizer(loaded)
    chat_format = chats.format(loaded.tokenizer)
    if chat_format is not None:
        task = replace(task, choices=choices_in_chat(task.choices, chat_format))
        for own in vectors:
            warn_of_other_template(own, chat_format.digest)
    if damage and documents is None:
        task = WithDamage(task, neutral_texts())
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
    console.print(sweep_table(records))
    console.print(explained(records), markup=False, highlight=False)
    if figure is not None:
        from faststeer.diagnostics.tuning.sweep_figure import draw

        draw(records, figure)
        console.print(f"wrote {figure}", soft_wrap=True, markup=False, highlight=False)
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


def _pairs_task(path: Path, max_length: int, items: int | None) -> Any:
    from faststeer.data import PairsFile
    from faststeer.diagnostics.tuning.pairs_task import PairsTask

    return PairsTask(path.stem, list(islice(PairsFile(path), items)), max_length)
