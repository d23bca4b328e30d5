"""The setting of the page as Python and as a command, for copying."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from faststeer.play.asking import Request, Sampling
from faststeer.steering.conditions import Condition, TokenCondition
from faststeer.steering.scope_text import is_name, python_of
from faststeer.vectors.steering_vector import SteeringVector


def file_name(name: str) -> str:
    """Return the file that a vector is saved as, whatever its name holds."""
    safe = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)
    return (safe.lstrip(".") or "vector") + ".safetensors"


def as_python(model: str, request: Request) -> str:
    """Return a program that prints the steered answer, token for token (greedy).

    Args:
        model: the name that `faststeer.models.load` takes.
        request: its vectors are read from the files of `file_name`.
    """
    lines = [
        "import faststeer",
        "from faststeer.models import continuations, load",
        "",
        f"loaded = load({model!r})",
        "model, tokenizer = loaded.model, loaded.tokenizer",
    ]
    last = ""
    if isinstance(request.prompt, str):
        lines.append(f"prompt = {request.prompt!r}")
    else:
        lines += [
            f"messages = {[dict(message) for message in request.prompt]!r}",
            "prompt = faststeer.data.chat_text(messages, tokenizer)",
        ]
        last = ", add_special_tokens=False"
    lines.append("with faststeer.patch(model) as patched:")
    for number, use in enumerate(use for use in request.uses if use.acts):
        given = [repr(use.coefficient)]
        for key in ("layers", "positions", "mode"):
            value = getattr(use, key)
            if value is not None:
                given.append(f"{key}={_value(key, value)}")
        given.append(f'name="{number}"')
        lines.append(f"    vector = {_loaded(use.vector)}")
        if use.when is not None:
            lines += [
                f"    condition = {_loaded(use.when.vector)}",
                f"    when = faststeer.when(condition, {_condition(use.when)})",
            ]
            given.append("when=when")
        lines.append(f"    patched.steer(vector, {', '.join(given)})")
    lines += [
        f"    [text] = continuations(model, tokenizer, [prompt], {request.max_new_tokens}{last})",
        "print(text)",
    ]
    return "\n".join([*_not_greedy(request.sampling), *lines]) + "\n"


def as_command(model: str, request: Request) -> str:
    """Return the command that prints both answers (greedy); of a chat only one message fits."""
    words = ["faststeer", "generate", "--model", model]
    lines = _not_greedy(request.sampling)
    for use in request.uses:
        if not use.acts:
            continue
        if use.when is not None:
            lines.append(
                f"# the command has no conditions: {use.vector.name!r} steers without one here"
            )
        setting = [file_name(use.vector.name)]
        if use.layers is not None:
            setting.append(f"layer={_layers(use.layers)}")
        setting.append(f"coefficient={use.coefficient!r}")
        if use.mode is not None:
            setting.append(f"mode={use.mode}")
        if isinstance(use.positions, str) and is_name(use.positions):
            setting.append(f"positions={use.positions}")
        elif use.positions is not None:
            lines.append(f"# the command takes names of positions, and not {use.positions}")
        words += ["--steer", ":".join(setting)]
    if isinstance(request.prompt, str):
        words += ["--prompt", request.prompt]
    else:
        if len(request.prompt) > 1:
            lines.append("# the command takes one message; the Python beside it has the whole chat")
        words += ["--chat", "--prompt", request.prompt[-1]["content"]]
    words += ["--max-new-tokens", str(request.max_new_tokens)]
    if "--steer" not in words:
        lines.append("# no slider is moved; the command needs a --steer")
    return "\n".join([*lines, shlex.join(words)]) + "\n"


def _loaded(vector: SteeringVector) -> str:
    return f"faststeer.SteeringVector.load({file_name(vector.name)!r})"


def _value(key: str, given: tuple[int, ...] | str | range) -> str:
    if key == "positions" and isinstance(given, str):
        return python_of(given)
    return repr(list(given) if isinstance(given, tuple) else given)


def _condition(condition: Condition) -> str:
    sign = "above" if condition.above else "below"
    words = f"layer={condition.site.layer}, {sign}={condition.threshold!r}"
    if isinstance(condition, TokenCondition):
        words += f', each="token", hysteresis={condition.hysteresis}'
    return words


def _layers(layers: Sequence[int]) -> str:
    return ",".join(map(str, layers))


def _not_greedy(sampling: Sampling) -> list[str]:
    if not sampling.temperature:
        return []
    return [
        f"# the page drew tokens at temperature {sampling.temperature:g}; this takes the likeliest"
    ]
