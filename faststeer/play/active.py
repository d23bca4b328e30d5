"""The vectors of a batch: each (vector, layers, positions, mode, condition) active once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from faststeer.patching.patched import Patched
from faststeer.play.stream import Stream
from faststeer.steering.conditions import TokenCondition
from faststeer.utils.warnings import FaststeerWarning


class ActiveVectors:
    """Adds the vectors that a batch's requests use, and removes all of them on exit."""

    def __init__(self, patched: Patched, tokenizer: Any) -> None:
        """Start with none; `patched` has no vectors of its own, `tokenizer` made the prompts."""
        self.patched = patched
        self.tokenizer = tokenizer
        self.names: dict[tuple[object, ...], str] = {}

    def __enter__(self) -> ActiveVectors:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the model unsteered."""
        self.patched.clear()

    def prepare(self, stream: Stream) -> bool:
        """Activate what the request uses, and give its steered row the coefficients.

        Where that is not possible the stream fails with the reason, and False is returned.
        Warnings become notes of the stream.
        """
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", FaststeerWarning)
                coefficients = {}
                for use in stream.request.uses:
                    if not use.acts:
                        continue
                    name = self.names.get(use.place)
                    if name is None:
                        name = f"{use.vector.name} ({len(self.names)})"
                        self.patched.steer(
                            use.vector,
                            1.0,
                            layers=use.layers,
                            name=name,
                            mode=use.mode,
                            positions=use.scope(self.tokenizer),
                            when=use.when,
                        )
                        self.names[use.place] = name
                    intervention = self.patched.plan.interventions[name]
                    intervention.require_finite(intervention.by_layer(use.coefficient))
                    coefficients[name] = float(use.coefficient)
        except (TypeError, ValueError) as error:
            stream.fail(str(error))
            return False
        found = [str(one.message) for one in caught if issubclass(one.category, FaststeerWarning)]
        stream.notes += found
        _, steered = stream.rows
        steered.coefficients = coefficients
        return True

    def note_decisions(self, streams: Sequence[Stream]) -> None:
        """Add a note to each stream for each condition on its prompt, once the prompts have run.

        `streams`: those of the batch, in the order of its rows.
        """
        for number, stream in enumerate(streams):
            for use in stream.request.uses:
                if use.when is None or not use.acts:
                    continue
                passed = self.patched[self.names[use.place]].passed
                if passed is None:  # the forward pass was compiled
                    continue
                own = passed[2 * number + 1]  # the unsteered row comes first
                if isinstance(use.when, TokenCondition):
                    count = len(stream.rows[1].prompt)  # behind the padding
                    met = int(own[-count:].sum())
                    words = f"steers {met} of the prompt's {count} tokens:"
                else:
                    met = bool(own)
                    words = "steers: the prompt meets" if met else "does not steer: it fails"
                stream.notes.append(f"{use.vector.name} {words} {use.when.in_words}")
