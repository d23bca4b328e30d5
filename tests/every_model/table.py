"""Write the table of classes, `docs/models.md`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import transformers

import faststeer
from every_model.building import model_types
from every_model.outcomes import REFUSED, RIGHT, STOCK, Finding, Report

# Heading -> the checks that it covers, by prefixes of their names.
COLUMNS = {
    "all positions": ("forward", "scope: all"),
    "some positions": ("scope:",),
    "rows": ("rows:",),
    "text": ("written",),
    "ablate": ("ablate",),
    "cap": ("capped",),
    "condition": ("condition",),
    "capture": ("capture",),
    "extract": ("activations", "extract"),
}
ORDER = ("fused", "by hook", "refused", "not built", "crashed")
TITLES = {
    "fused": "Fused",
    "by hook": "By a hook per layer",
    "refused": "Refused",
    "not built": "Not examined",
    "crashed": "Crashed",
}
INTRODUCTION = """# Models

Every class that `AutoModelForCausalLM` knows, as a tiny model with random weights, compared with
plain forward hooks. Written by `make models`; do not edit.

faststeer {faststeer}, torch {torch}, transformers {transformers}: {counts}.

How each column was checked:

- **all positions**: a vector at two middle layers, in a forward and in a cached `generate`.
- **some positions**: `positions=` "prompt", "generated", "from_last_prompt", "last", `first(2)` and
  a range, in a cached `generate`. The hooks were also run without a cache.
- **rows**: three prompts of different lengths, padded on the left, with coefficients 1, none and
  -1; at all positions, at generated ones and in a range.
- **text**: the tokens after a marker in the prompt, and those up to it, in a cached `generate`.
- **ablate**: one direction removed at every site of every layer.
- **cap**: the projection on a direction held under its median, so that half of the tokens are
  changed.
- **condition**: the tokens steered, in a cached `generate`, whose cosine with a direction at an
  earlier layer exceeds a threshold (`when(..., each="token")`).
- **capture**: the mean and variance of every feature over real tokens, and over generated ones.
- **extract**: `activations` and `extract` on texts of different lengths, against each text alone.

After `unpatch` the logits of every class are the same bits, and no hook, attribute or class
remains. The entries mean:

| entry | meaning |
|---|---|
| yes | equal to plain hooks |
| warns | equal to the model's own computation on a padded batch; a `FaststeerWarning` says so |
| refused | a `ValueError` or `TypeError` states what is missing; quoted below the table |
| partly | some of it is refused, in the same way |
| - | the stock model cannot do it |

The error is the largest difference of a logit from plain hooks, as a share of the largest change
that steering makes. The limit is {limit:.0e} in float32. Projections and caps, which are rounded
where they act, may differ by four times what two hooks differ by that compute them in float32
and in float64. A run that a wrong program would pass too, because steering another token or
another row makes no difference to the model, counts as a failure.
"""


def written(reports: Sequence[Report], limit: float) -> str:
    """Return the whole document."""
    groups = {way: [r for r in reports if r.way == way] for way in ORDER}
    counts = ", ".join(f"{len(own)} {way}" for way, own in groups.items() if own)
    parts = [
        INTRODUCTION.format(
            faststeer=faststeer.__version__,
            torch=torch.__version__,
            transformers=transformers.__version__,
            counts=counts,
            limit=limit,
        )
    ]
    for way, own in groups.items():
        if own:
            parts.append(f"## {TITLES[way]}\n")
            parts += _reasons(own) if way in ORDER[2:] else _compared(own)
    return "\n".join(parts).rstrip() + "\n"


def _compared(reports: Sequence[Report]) -> list[str]:
    lines = ["| class | model types | " + " | ".join(COLUMNS) + " | error |"]
    lines.append("|---|---|" + "---|" * len(COLUMNS) + "---:|")
    for report in reports:
        types = ", ".join(model_types(report.name))
        cells = [_cell(report, prefixes) for prefixes in COLUMNS.values()]
        lines.append(f"| {report.name} | {types} | " + " | ".join(cells) + f" | {_worst(report)} |")
    lines.append("")
    lines += _footnotes(reports)
    return lines


def _cell(report: Report, prefixes: tuple[str, ...]) -> str:
    found = [f for f in report.findings if f.check.startswith(prefixes)]
    if prefixes == ("scope:",):
        found = [f for f in found if f.check != "scope: all"]
    outcomes = {f.outcome for f in found}
    bad = sorted({f.outcome for f in found if f.failed})
    if bad or not found:
        return f"**{', '.join(bad) or 'not examined'}**"
    if outcomes == {STOCK}:
        return "-"
    if REFUSED in outcomes:
        return "partly" if RIGHT in outcomes else "refused"
    return "warns" if any(f.message for f in found if f.outcome == RIGHT) else "yes"


def _worst(report: Report) -> str:
    errors = [f.error for f in report.findings if _is_steering(f) and f.error is not None]
    return f"{max(errors):.1e}" if errors else ""


def _is_steering(finding: Finding) -> bool:
    kinds = ("forward", "scope", "rows", "written", "ablate", "capped", "condition")
    return finding.check.startswith(kinds)


def _footnotes(reports: Iterable[Report]) -> list[str]:
    lines = []
    for report in reports:
        notes_of: dict[str, list[str]] = {}
        for f in report.findings:
            if f.message and f.outcome != STOCK:
                notes_of.setdefault(f"{f.outcome}: {_one_line(f.message)}", []).append(f.check)
        notes = [f"{', '.join(checks)} {text}" for text, checks in notes_of.items()]
        notes += map(_one_line, report.notes)
        lines += [f"- {report.name}: {note}" for note in notes]
    return [*lines, ""] if lines else []


def _reasons(reports: Iterable[Report]) -> list[str]:
    return [*(f"- {report.name}: {_one_line(report.reason)}" for report in reports), ""]


def _one_line(text: str) -> str:
    return " ".join(text.split())
