"""What the model says freely under each setting: a score is not the behaviour."""

from __future__ import annotations

from faststeer.evaluate.records import Setting, key_of
from faststeer.experiments.outcome import Cell, Section, Table
from faststeer.experiments.several.freely import WORDS, perplexity, prompts, repeated
from faststeer.experiments.several.protocol import SHOWN
from faststeer.experiments.several.results import Results
from faststeer.experiments.several.scored import PROBABILITY, estimate
from faststeer.experiments.several.settings import DIRECTIONS, UNSTEERED

_SHOWN_TEXTS = 2
_WHOLLY, _JOINTLY = "all at once, one coefficient", "all at once, a coefficient each"


def freely(results: Results) -> Section:
    """Repetition and perplexity beside the score, and two texts of each setting."""
    asked = prompts(results.protocol.prompts)
    rows: list[list[Cell]] = []
    texts: list[list[Cell]] = []
    for shown, (name, setting) in _settings(results).items():
        record = results.freely[key_of(setting)]
        again, odd = repeated(record), perplexity(record)
        records = results.every(setting) if name is None else [results.of(name, setting)]
        rows.append(
            [
                shown,
                None if again is None else again.shown,
                None if odd is None else f"{odd.value:.1f} [{odd.low:.1f}, {odd.high:.1f}]",
                estimate(records, PROBABILITY).shown,
            ]
        )
        for prompt, text in list(zip(asked, record["items"]["texts"], strict=True))[:_SHOWN_TEXTS]:
            question = prompt.removeprefix("Human:\n").partition("\n")[0]
            texts.append([shown, question, " ".join(text.split())])
    columns = ["steering", "repetition", "perplexity", "matching probability"]
    tables = [
        Table(f"{len(asked)} continuations of at most {_tokens(results)} tokens", columns, rows),
        Table("Two texts of each", ["steering", "question", "what it says"], texts),
    ]
    layer = results.layers.all_at_one
    text = (
        f"Open questions, answered greedily; vectors alone steer at layer {layer}. Repetition is "
        f"the share of {WORDS} words in a row that the text had before, perplexity is that of the "
        "unsteered model. The matching probability is that of the behaviour whose vector steers, "
        "or the mean of all."
    )
    return Section("Free text", text, tables)


def fluency(results: Results) -> str:
    """Which settings make text that the unsteered model finds odder, or that repeats itself."""
    plain = results.freely[key_of(UNSTEERED)]
    before, again = perplexity(plain), repeated(plain)
    if before is None or again is None:
        return "Unsteered, the model says nothing freely."
    odder, repeating, silent = [], [], []
    for shown, (_, setting) in _settings(results).items():
        record = results.freely[key_of(setting)]
        odd, often = perplexity(record), repeated(record)
        if odd is None or often is None:
            silent.append(shown)
            continue
        if odd.low > before.high:
            odder.append(f"{shown} ({odd.value:.1f})")
        if often.low > again.high:
            repeating.append(f"{shown} ({often.value:.2f})")
    told = (
        f"Unsteered, free text repeats {again.value:.0%} of its three words in a row and has a "
        f"perplexity of {before.value:.1f}. Clearly odder (intervals apart): "
        f"{'; '.join(odder) or 'none'}. Clearly more repetitive: {'; '.join(repeating) or 'none'}."
    )
    return f"{told} Nothing to judge is said under: {'; '.join(silent)}." if silent else told


def _tokens(results: Results) -> int:
    return results.protocol.new_tokens


def _settings(results: Results) -> dict[str, tuple[str | None, Setting]]:
    """What is shown, with the behaviour that is steered, or None for all."""
    settings: dict[str, tuple[str | None, Setting]] = {"unsteered": (None, UNSTEERED)}
    for name in results.names:
        for direction in DIRECTIONS:
            own = results.alone(name, results.layers.all_at_one, direction)
            settings[f"{direction} {SHOWN[name]}"] = (name, own)
    settings[_WHOLLY] = (None, results.wholly(results.whole))
    settings[_JOINTLY] = (None, results.joint)
    return settings
