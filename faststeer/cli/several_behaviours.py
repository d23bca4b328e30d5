"""`faststeer experiment behaviours`: several behaviours steered alone and together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from faststeer.cli import options

if TYPE_CHECKING:
    from faststeer.experiments.several_behaviours import Protocol

_NEUTRAL = "plain encyclopaedic prose that comes with faststeer"
TRAITS, QUESTIONS = "traits", "behaviours"


def behaviours(
    output: Annotated[Path, typer.Option(help="A folder; an interrupted run resumes there.")],
    model: options.ModelOption = "demo",
    data: Annotated[
        str | None,
        typer.Option(
            help="'traits', which come with faststeer; 'behaviours', the fetched question sets; or "
            "a folder of such sets. Default: traits for the demo's model, else behaviours."
        ),
    ] = None,
    traits: Annotated[
        Path | None, typer.Option(help="A JSON file of your own traits, in place of faststeer's.")
    ] = None,
    behaviour: Annotated[
        list[str] | None,
        typer.Option(help="Such as sentiment, or myopic; may be repeated. Default: all."),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="General text: a folder, a JSONL or any text file.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A first look, in a minute.")] = False,
    paper: Annotated[
        bool,
        typer.Option("--paper", help="Question sets: the paper's grids and numbers of questions."),
    ] = False,
    layers: Annotated[
        str | None,
        typer.Option(
            *options.LAYER_NAMES, help="Of each vector alone: 'all', or such as 10,15 or 8-15."
        ),
    ] = None,
    coefficients: Annotated[
        str | None,
        typer.Option(help="Of each vector alone, such as -5,-2,2,5; of traits, of either sign."),
    ] = None,
    train: Annotated[
        int | None, typer.Option(min=1, max=500, help="Question sets: pairs per vector.")
    ] = None,
    balanced: Annotated[
        bool,
        typer.Option("--balanced", help="Question sets: equally many pairs per matching answer."),
    ] = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="Question sets: ask in the model's chat template.")
    ] = False,
    items: Annotated[
        str | None,
        typer.Option(help="Questions or prompts to choose on, and as many to test; 'all'."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Question sets: for the shuffle before they are split; default 13."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Texts per forward pass; default 8, traits 16.")
    ] = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
) -> None:
    """Steer several behaviours one by one, by one combined vector, and all at once."""
    from faststeer.data.shipped import neutral_texts, prose_texts
    from faststeer.utils.plot_style import require_matplotlib

    started = time.monotonic()
    if data is None:
        data = TRAITS if traits is not None or model == "demo" else QUESTIONS
    of_questions = {"--paper": paper, "--train": train, "--balanced": balanced, "--seed": seed}
    of_questions["--chat"] = chat
    if data == TRAITS:
        _refuse(data, of_questions)
    else:
        _refuse(data, {"--traits": traits})
    require_matplotlib()
    options.require_writable(output)
    numbers = None if layers is None else options.layer_numbers(layers)
    own = None if coefficients is None else tuple(options.coefficients_in(coefficients))
    given: dict[str, Any] = {"layers": numbers}
    if batch_size is not None:
        given["batch_size"] = batch_size
    console = Console()

    def load() -> Any:
        loaded = options.load(model, device, dtype, None)
        options.require_tokenizer(loaded)
        return loaded

    if data == TRAITS:
        from faststeer.experiments.traits import several_traits

        chosen = _traits(traits, behaviour)
        sizes = _traits_protocol(quick, own, items)
        texts = _texts(text, prose_texts, sizes.texts)
        loaded = load()
        result = several_traits(
            loaded.model,
            loaded.tokenizer,
            chosen,
            texts,
            output,
            protocol=sizes,
            text_source=_NEUTRAL if text is None else text.name,
            progress=console.is_terminal,
            **given,
        )
    else:
        from faststeer.experiments.several_behaviours import (
            BEHAVIOURS,
            read_behaviours,
            several_behaviours,
        )

        protocol = _protocol(quick, paper, own, train, items)
        if balanced:
            protocol = replace(protocol, balanced=True)
        split = 13 if seed is None else seed
        folder = None if data == QUESTIONS else Path(data)
        questions = read_behaviours(behaviour or BEHAVIOURS, folder, protocol, split)
        texts = _texts(text, neutral_texts, protocol.texts)
        loaded = load()
        result = several_behaviours(
            loaded.model,
            loaded.tokenizer,
            questions,
            texts,
            output,
            protocol=protocol,
            text_source=_NEUTRAL if text is None else text.name,
            seed=split,
            chat=chat,
            progress=console.is_terminal,
            **given,
        )
    options.show_result(result, output, time.monotonic() - started, console)


def _refuse(data: str, given: Mapping[str, Any]) -> None:
    """Raise ValueError for options of the other kind of data."""
    unused = [option for option, value in given.items() if value not in (None, False)]
    if unused:
        raise ValueError(f"{', '.join(unused)}: has no meaning with --data {data}")


def _texts(text: Path | None, shipped: Callable[[], list[str]], count: int) -> list[str]:
    from faststeer.data import Documents

    return list(islice(shipped() if text is None else Documents(text), count))


def _items(text: str) -> int | None:
    """Parse `--items`; None is all. Raises ValueError for anything but a number from 1."""
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--items {text!r}: expected a number from 1, or 'all'")
    return int(text)


def _traits(file: Path | None, names: list[str] | None) -> list[Any]:
    """Return the shipped traits or those of a file; only those named, if any are."""
    from faststeer.data.trait_files import SHIPPED_TRAITS, Trait, read_traits

    if file is None:
        return [Trait.shipped(name) for name in names or SHIPPED_TRAITS]
    traits = {trait.name: trait for trait in read_traits(file)}
    unknown = [name for name in names or [] if name not in traits]
    if unknown:
        raise ValueError(f"trait {unknown[0]!r} is not in {file}; there are {', '.join(traits)}")
    return [traits[name] for name in names or traits]


def _traits_protocol(quick: bool, coefficients: tuple[float, ...] | None, items: str | None) -> Any:
    from faststeer.experiments.traits import Protocol as TraitsProtocol

    protocol = TraitsProtocol.quick() if quick else TraitsProtocol()
    if coefficients is not None:
        strengths = sorted({abs(c) for c in coefficients})
        if 0 in strengths:
            raise ValueError("--coefficients: 0 is always measured; expected others")
        protocol = replace(protocol, coefficients=tuple(strengths))
    return protocol if items is None else replace(protocol, items=_items(items))


def _protocol(
    quick: bool,
    paper: bool,
    coefficients: tuple[float, ...] | None,
    train: int | None,
    items: str | None,
) -> Protocol:
    from faststeer.experiments.several_behaviours import Protocol

    if quick and paper:
        raise ValueError("give either --quick or --paper")
    protocol = Protocol.quick() if quick else Protocol.paper() if paper else Protocol()
    if coefficients is not None:
        protocol = replace(protocol, coefficients=coefficients)
    if train is not None:
        protocol = replace(protocol, train=train)
    return protocol if items is None else replace(protocol, items=_items(items))
