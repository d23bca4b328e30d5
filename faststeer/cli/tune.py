"""The command `faststeer tune`: find the layer and the coefficient of a vector."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from faststeer.cli import chat_options, options, sources


def tune(
    output: Annotated[
        Path, typer.Option(help="Safetensors file to write; a folder for several vectors.")
    ],
    model: options.ModelOption,
    vector: Annotated[
        list[Path] | None,
        typer.Argument(help="Vector file to tune; without one, it is extracted from the items."),
    ] = None,
    pairs: sources.PairsOption = None,
    behaviour: sources.BehaviourOption = None,
    data: sources.DataOption = None,
    positive: sources.PositiveOption = None,
    negative: sources.NegativeOption = None,
    dataset: sources.DatasetOption = None,
    columns: sources.ColumnsOption = "positive,negative",
    chat: sources.ChatOption = False,
    system: chat_options.SystemOption = None,
    template: chat_options.TemplateOption = None,
    trait: Annotated[
        list[str] | None,
        typer.Option(help="Such as sentiment, or a file of traits; repeatable, tuned together."),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="module:function of (model, tokenizer), that returns scores [N]."),
    ] = None,
    kl: Annotated[
        float | None,
        typer.Option(help="Budget on neutral text: KL, nats per token; 0.1 without another one."),
    ] = None,
    perplexity: Annotated[
        float | None, typer.Option(help="Budget: times the unsteered perplexity, such as 1.2.")
    ] = None,
    lost: Annotated[
        float | None,
        typer.Option("--lost-tokens", help="Budget: share of right next tokens lost, such as .05."),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(*options.LAYER_NAMES, help="To try: 'all', or numbers such as 10,12 or 8-15."),
    ] = None,
    opposite: Annotated[
        bool, typer.Option("--opposite", help="Steer towards the negative side.")
    ] = False,
    max_layers: Annotated[int, typer.Option(min=1, help="Layers per vector.")] = 1,
    texts: Annotated[
        Path | None, typer.Option(help='Neutral texts, JSONL of {"text": ...}; default: prose.')
    ] = None,
    items: Annotated[int, typer.Option(min=4, help="At most this many items per vector.")] = 64,
    method: Annotated[str, typer.Option(help="Of extraction.")] = "mean_difference",
    site: Annotated[str, typer.Option(help="resid_pre, resid_mid or resid_post.")] = "resid_post",
    read_token: Annotated[str, typer.Option(help=options.READ_TOKEN_HELP)] = "-1",
    match_endings: Annotated[
        bool, typer.Option("--match-endings", help="Trim pairs to equal last tokens.")
    ] = False,
    cache: sources.CacheOption = False,
    max_length: Annotated[int, typer.Option(help="Truncate texts to this many tokens.")] = 128,
    seed: Annotated[int, typer.Option(help="Of splits, drawn tokens and random directions.")] = 0,
    figure: Annotated[
        Path | None, typer.Option(help="Picture of effect over damage: PNG, SVG or PDF.")
    ] = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
) -> None:
    """Find the layer and coefficient of most effect within a budget of damage to neutral text."""
    import faststeer
    from faststeer import SteeringVector
    from faststeer.data.jsonl import read_texts

    numbers = None if layers is None else options.layer_numbers(layers)
    token = options.read_token(read_token)
    vectors = [SteeringVector.load(path) for path in vector or []]
    in_chat = (chat, system, template)
    rows = (pairs, behaviour, data, positive, negative, dataset, columns, *in_chat)
    chosen = _Items.from_options(rows, trait, objective)
    several = len(chosen.traits or ()) > 1
    _require_outputs(output, figure, several)
    if vectors and (method, site, token, match_endings, cache) != _OF_EXTRACTION:
        raise ValueError(
            "--method, --site, --read-token, --match-endings and --cache are about extracting a "
            "vector; leave them out where one is given"
        )
    neutral = None if texts is None else list(read_texts(texts))
    loaded = options.load(model, device, dtype, None)
    options.require_tokenizer(loaded)
    console = Console()
    found, more = chosen.of(loaded.tokenizer)
    extraction = {
        "method": method,
        "site": site,
        "read_token": token,
        "match_endings": match_endings,
        "cache": cache,
        **more,
    }
    with options.warnings_as_lines(), options.stages_as_lines(console):
        tuned = faststeer.tune(
            loaded.model,
            loaded.tokenizer,
            *_matched(found, vectors, output.stem),
            kl=kl,
            perplexity=perplexity,
            lost=lost,
            layers=numbers,
            opposite=opposite,
            max_layers=max_layers,
            texts=neutral,
            max_items=items,
            max_length=max_length,
            seed=seed,
            extraction=extraction,
            progress=console.is_terminal,
        )
    console.print(_table(tuned))
    console.print(repr(tuned), markup=False, highlight=False, soft_wrap=True)
    for own in tuned.vectors:
        path = output / _file_name(own.name) if several else output
        path.parent.mkdir(parents=True, exist_ok=True)
        own.save(path)
        console.print(
            f"wrote {path}: faststeer generate --steer {path} needs no layer and no coefficient",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if figure is not None:
        tuned.plot(figure)
        console.print(f"wrote {figure}", markup=False, highlight=False, soft_wrap=True)


_OF_EXTRACTION = ("mean_difference", "resid_post", -1, False, False)  # the defaults


def _require_outputs(output: Path, figure: Path | None, several: bool) -> None:
    """Raise, before anything takes long, where the results cannot be written."""
    if several:
        options.require_writable(output)
    else:
        options.require_new_file(output)
        if output.suffix != ".safetensors":
            raise ValueError(f"{output}: tune writes .safetensors, which keeps what was measured")
    if figure is not None:
        options.require_picture(figure)


def _file_name(name: str) -> str:
    """Return the file of a vector of this name, in one folder whatever the name holds."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".") + ".safetensors"


@dataclass(frozen=True)
class _Items:
    """What the options name: one source of texts, traits, or a function."""

    source: sources.Source | None = None
    traits: Mapping[str, Any] | None = None
    function: Any = None

    @classmethod
    def from_options(cls, rows: Any, trait: list[str] | None, objective: str | None) -> _Items:
        """Read the options. Raises ValueError where not exactly one kind is given."""
        others = any(own is not None for own in (*rows[:2], *rows[3:6]))
        if (trait is not None) + (objective is not None) + others != 1:
            raise ValueError(
                "give one source: --pairs, --behaviour, --dataset, --positive and --negative, "
                "--trait or --objective"
            )
        if not others and chat_options.ChatOptions.parse(*rows[-3:]).chat:
            raise ValueError("--chat goes with texts, not with --trait or --objective")
        if trait is not None:
            return cls(traits=_traits(trait))
        if objective is not None:
            return cls(function=_function(objective))
        return cls(sources.Source.from_options(*rows))

    def of(self, tokenizer: Any) -> tuple[Any, dict[str, Any]]:
        """Return the items for `faststeer.tune`, and arguments of extraction."""
        if self.traits is not None:
            return self.traits, {}
        if self.source is None:
            return self.function, {}
        given = self.source.extract_arguments(tokenizer)
        if "pairs" in given:
            return given.pop("pairs"), given
        from faststeer.data.chat import format_of
        from faststeer.diagnostics.tuning.sources import PairsInFormat

        positive, negative = given.pop("positive"), given.pop("negative")
        pairs = zip(positive, negative, strict=False)
        return PairsInFormat(pairs, format_of(positive, negative)), given


def _traits(named: list[str]) -> dict[str, Any]:
    from faststeer.data.trait_files import SHIPPED_TRAITS, Trait, read_traits

    found: dict[str, Any] = {}
    for name in named:
        own = [Trait.shipped(name)] if name in SHIPPED_TRAITS else read_traits(name)
        for trait in own:
            if _file_name(trait.name) in map(_file_name, found):
                raise ValueError(f"--trait {name}: a trait {trait.name!r} is given already")
            found[trait.name] = trait
    return found


def _function(text: str) -> Any:
    """Return the function that `module:function` names; the present folder is looked in too."""
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise ValueError(f"--objective {text!r}: expected module:function")
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ValueError(f"--objective {text!r}: there is no module {module!r}") from None
    finally:
        sys.path.remove("")
    if not callable(found):
        raise ValueError(f"--objective {text!r}: {module} has no function {name!r}")
    return found


def _matched(items: Any, vectors: list[Any], name: str) -> tuple[Any, Any]:
    """Return items and vectors as `faststeer.tune` takes them: by name where they are several."""
    if isinstance(items, Mapping) and (len(items) > 1 or len(vectors) > 1):
        if vectors and len(vectors) != len(items):
            raise ValueError(
                f"got {len(vectors)} vectors and {len(items)} traits; expected as many, in the "
                "same order, or no vectors"
            )
        return items, dict(zip(items, vectors, strict=True)) if vectors else None
    if len(vectors) > 1:
        raise ValueError(f"got {len(vectors)} vectors; several are tuned with a --trait for each")
    if isinstance(items, Mapping):
        [items] = items.values()
    if vectors:
        return items, vectors[0]
    return {name: items}, None


def _table(tuned: Any) -> Table:
    """Return the front and the next best layers."""
    table = Table(title="measured on what nothing was chosen on")
    for heading in ("setting", "dose", "effect", "KL", "perplexity", "lost"):
        left = heading == "setting"
        wraps = left and len(tuned.vectors) > 1
        table.add_column(heading, justify="left" if left else "right", no_wrap=not wraps)
    for trial in tuned.of_kind("front", "chosen"):
        style = "bold" if trial.kind == "chosen" else None
        table.add_row(*map(Text, _cells(trial)), style=style)
    table.add_section()
    for trial in tuned.of_kind("other layer"):
        table.add_row(*map(Text, _cells(trial)))
    return table


def _cells(trial: Any) -> Iterable[str]:
    effects = "\n".join(
        f"{own.mean:+.3g} [{own.interval[0]:.2g}, {own.interval[1]:.2g}]"
        for own in trial.effects.values()
    )
    damage = trial.damage
    setting = trial.setting().replace(", ", "\n")
    if len(trial.effects) == 1:
        setting = setting.replace(f"{next(iter(trial.effects))} ", "")
    return (
        f"→ {setting}" if trial.kind == "chosen" else setting,
        f"{100 * trial.dose:.0f} %",
        effects,
        f"{damage.kl:.3g}",
        f"x{damage.perplexity:.3f}",
        f"{100 * damage.lost:.1f} %",
    )
