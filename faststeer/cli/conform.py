"""The command `faststeer conform`: probe a steering server or library for silent failures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from faststeer.cli import options
from faststeer.utils.files import write_whole

if TYPE_CHECKING:
    from faststeer.diagnostics.conform import Finding, Subject

_STYLES = {"passed": "green", "failed": "bold red", "inconclusive": "yellow"}
_SETTING = "JSON of a request's part, @FILE, or another server's address; "


def conform(
    url: Annotated[
        str | None, typer.Option(help="Server with OpenAI's routes, without /v1.")
    ] = None,
    module: Annotated[
        str | None, typer.Option(help="MODULE:FUNCTION that returns a Subject, for a library.")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="faststeer (settings are names of vectors or terms), vllm, llama.cpp or none."
        ),
    ] = "none",
    steered: Annotated[
        str | None,
        typer.Option(help=_SETTING + "{coefficient} stands for the number. Every token."),
    ] = None,
    other: Annotated[
        str | None, typer.Option(help=_SETTING + "with another effect than --steered.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help=_SETTING + "steers only the prompt.")] = None,
    early: Annotated[
        str | None, typer.Option(help=_SETTING + "steers only the prompt's first tokens.")
    ] = None,
    last_layer: Annotated[
        str | None, typer.Option(help=_SETTING + "steers only the last layer.")
    ] = None,
    wrong: Annotated[
        str | None, typer.Option(help=_SETTING + "must be refused, such as an unknown vector.")
    ] = None,
    fresh: Annotated[
        str | None,
        typer.Option(help="JSON that keeps a request from the prompt cache; {nonce} is unique."),
    ] = None,
    body: Annotated[str | None, typer.Option(help="JSON of a part of every request.")] = None,
    coefficient: Annotated[
        float,
        typer.Option("--coefficient", "--multiplier", help="Large enough to change answers."),
    ] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=4, help="Tokens per answer.")] = 8,
    model: Annotated[
        str | None, typer.Option(help="Served name; default: the first that the server lists.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY")] = None,
    output: Annotated[
        Path | None, typer.Option(help="JSON file with the requests that show each failure.")
    ] = None,
) -> None:
    """Probe a steering server or library for silent failures; exit code 1 if any probe fails."""
    if (url is None) == (module is None):
        raise ValueError("give either --url or --module")
    if output is not None:
        options.require_new_file(output)
    from faststeer.diagnostics.conform import BrokenError, examine

    given = {
        "steered": steered,
        "other": other,
        "prompt": prompt,
        "early": early,
        "last_layer": last_layer,
        "wrong": wrong,
    }
    settings = {kind: own for kind, own in given.items() if own is not None}
    more = {"preset": preset, "fresh": fresh, "body": body, "model": model, "key": api_key}
    console = Console()
    table = Table("probe", "verdict", "reason")
    try:
        live = Live(table, console=console, transient=True)  # as long as it grows
        with _subject(url, module, settings, more) as (subject, stated), live:
            report = examine(
                subject, coefficient, tokens=max_tokens, show=lambda own: _add(table, own)
            )
    except BrokenError as error:
        raise ValueError(str(error)) from error
    console.print(table)
    noise = f"equal requests are up to {report.noise:.2g} nats apart; effects are in nats"
    console.print(noise, soft_wrap=True, highlight=False)
    if output is not None:
        write_whole(output, (json.dumps(report.as_json() | stated, indent=1) + "\n").encode())
        console.print(f"wrote {output}", soft_wrap=True, markup=False, highlight=False)
    if not report.passed:
        raise typer.Exit(1)


@contextmanager
def _subject(
    url: str | None, module: str | None, settings: dict[str, str], more: dict[str, Any]
) -> Iterator[tuple[Subject, dict[str, Any]]]:
    """Make the subject that the options name, and what is recorded of them. Raises ValueError."""
    if url is None:
        of_servers = [name for name in ("fresh", "body", "model") if more[name] is not None]
        preset = ["preset"] * (more["preset"] != "none")
        if stated := [*settings, *of_servers, *preset]:
            raise ValueError(f"a module states its own settings; leave out {', '.join(stated)}")
        from faststeer.diagnostics.conform.module_subject import module_subject

        yield module_subject(str(module)), {}
        return
    if "steered" not in settings:
        raise ValueError("--url needs --steered: the part of a request that steers")
    try:
        from faststeer.diagnostics.conform.http_subject import HttpSubject
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "faststeer conform --url needs httpx: pip install 'faststeer[conform]'"
        ) from error
    from faststeer.diagnostics.conform.templates import settings_of

    templates = settings_of(more["preset"], settings)
    texts = {kind: own.address or own.text for kind, own in templates.items()}
    with HttpSubject(url, templates, **more) as subject:
        yield subject, {"preset": more["preset"], "settings": texts}


def _add(table: Table, finding: Finding) -> None:
    """Add a finding to the table, with the number that shows it best."""
    verdict = finding.verdict.value
    numbers = "; ".join(f"{name} {own:.2g}" for name, own in finding.measured.items())
    reason = f"{finding.reason} ({numbers})" if numbers else finding.reason
    table.add_row(finding.probe, Text(verdict, _STYLES.get(verdict, "dim")), Text(reason))
