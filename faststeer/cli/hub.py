"""The commands `faststeer push` and `faststeer pull`: vectors on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import options


def push(
    vector: Annotated[Path, typer.Argument(help="Vector file of any format.")],
    repo: Annotated[str, typer.Argument(help="Repository, user/vector; created if needed.")],
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository as a private one.")
    ] = False,
    branch: Annotated[str | None, typer.Option(help="Branch; created if needed.")] = None,
    message: Annotated[str | None, typer.Option(help="Commit message.")] = None,
    pull_request: Annotated[
        bool, typer.Option("--pull-request", help="Open a pull request instead of a commit.")
    ] = False,
    license: Annotated[str | None, typer.Option(help="For the card, such as apache-2.0.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="For the card: the model's name on the hub.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Image for the card; default: norms by layer.")
    ] = None,
) -> None:
    """Upload a vector with a card to the hub; log in with `hf auth login` or HF_TOKEN."""
    from faststeer import SteeringVector

    commit = SteeringVector.load(vector).push_to_hub(
        repo,
        private=True if private else None,
        branch=branch,
        commit_message=message,
        create_pr=pull_request,
        license=license,
        base_model=base_model,
        picture=picture,
    )
    _show(f"wrote {commit.pr_url or commit}\n--revision {commit.oid} pins it")


def pull(
    repo: Annotated[str, typer.Argument(help="Repository, user/vector, or a folder.")],
    output: Annotated[Path, typer.Option(help="File to write, as for convert.")],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; default: main.")
    ] = None,
    filename: Annotated[
        str | None, typer.Option(help="Which file, where the repository has several.")
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="Refuse a file of another SHA-256.")] = None,
) -> None:
    """Download a vector from the hub, and write it with the commit and hash that it is from."""
    from faststeer import SteeringVector

    options.require_folder(output)
    vector = SteeringVector.from_pretrained(
        repo, revision=revision, filename=filename, sha256=sha256
    )
    vector.save(output)
    _show(f"wrote {output} from {vector}")
    origin = vector.metadata.get("origin")
    if origin is not None:
        _show(f"--revision {origin['revision']} --sha256 {origin['sha256']} pin it")


def _show(text: str) -> None:
    Console().print(text, soft_wrap=True, markup=False, highlight=False)
