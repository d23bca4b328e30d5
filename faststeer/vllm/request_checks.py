"""What a request asks for, checked in the process that answers it: wrong ones never get further."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faststeer.vllm.captured_tokens import CAPTURE_KEY, CHECKED_CAPTURE_KEY, CaptureRequest
from faststeer.vllm.configuration import KEY, Configuration
from faststeer.vllm.leases import LeasedTerms
from faststeer.vllm.terms import Term, parse_terms
from faststeer.vllm.timeline import Timeline
from faststeer.vllm.vector_store import VectorStore

CHECKED_KEY = "faststeer_terms"  # in the arguments that go to the engine, never in a user's

NO_CAPTURE = (
    "this engine captures no statistics: start it with additional_config "
    '{"faststeer": {"capture": [11, 12]}}, the layers to read'
)


class RequestChecks:
    """Checks the arguments of requests against the vectors that are served."""

    def __init__(self, configuration: Configuration | None, store: VectorStore | None) -> None:
        """Create the checks. `store`: None where nothing is configured, and nobody is steered."""
        self.configuration = configuration
        self.store = store

    def checked(
        self, extra_args: Mapping[str, Any] | None, resumable: bool
    ) -> dict[str, Any] | None:
        """Return the arguments of a request with its terms as workers read them.

        Returns None where they have nothing for faststeer, and stay as they are.

        Args:
            extra_args: of the request.
            resumable: whether its prompt may grow.

        Raises:
            ValueError: what is asked for cannot be done, with the reason.
        """
        given = extra_args or {}
        if not given.keys() & {KEY, CHECKED_KEY, CAPTURE_KEY, CHECKED_CAPTURE_KEY}:
            return None
        if CHECKED_KEY in given:
            raise ValueError(f"{CHECKED_KEY} is not an argument of requests; give {KEY}")
        rest = {key: own for key, own in given.items() if key not in (KEY, CAPTURE_KEY)}
        rest |= self._checked_capture(given)
        if KEY not in given:
            return rest
        if self.store is None:
            raise ValueError(
                "this engine has no steering vectors: start it with FASTSTEER_VECTORS=folder, or "
                'with additional_config {"faststeer": {"vectors": "folder"}}'
            )
        with self.store.lock:  # names and digests of one moment, leased before they can change
            terms = parse_terms(given[KEY], self.store)
            wire = self.store.leases.follow(term.to_wire() for term in terms)
        if resumable and any(term.positions is not None for term in terms):
            raise ValueError("the prompt may grow, and only positions 'all' do not depend on it")
        return {**rest, CHECKED_KEY: wire}

    def lease(self, extra_args: Mapping[str, Any]) -> None:
        """Lease the vectors of checked arguments that were copied, for as long as the copy exists.

        Raises:
            TypeError: the terms are no longer the kind of list that `checked` returned.
        """
        wire = extra_args.get(CHECKED_KEY)
        if wire is None:  # a capture alone
            return
        if not isinstance(wire, LeasedTerms):
            raise TypeError(f"{CHECKED_KEY} is a {type(wire).__name__}; expected LeasedTerms")
        if self.store is not None:
            self.store.leases.follow(wire)

    def _checked_capture(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what workers read of a capture, whose request only this process can have made."""
        asked = given.get(CAPTURE_KEY)
        if CHECKED_CAPTURE_KEY in given or not isinstance(asked, CaptureRequest | None):
            raise ValueError(
                f"{CAPTURE_KEY} and {CHECKED_CAPTURE_KEY} are not arguments of requests; call "
                "faststeer.vllm.capture or faststeer.vllm.extract"
            )
        if asked is None:
            return {}
        if self.configuration is None or not self.configuration.capture:
            raise ValueError(NO_CAPTURE)
        return {CHECKED_CAPTURE_KEY: asked.to_wire()}

    def require_room(self, extra_args: Mapping[str, Any] | None, prompt_length: int) -> None:
        """Raise ValueError where more terms act on one token than fit."""
        wire = (extra_args or {}).get(CHECKED_KEY)
        if not wire or self.configuration is None:
            return
        most = timeline_of(wire, prompt_length).most_entries()
        if most is not None and most[0] > self.configuration.terms:
            count, site = most
            raise ValueError(
                f"{count} entries act on one token at {site.kind} of layer {site.layer}, and "
                f"{self.configuration.terms} fit (an addition or a projection takes one, a clamp "
                "two, a cap one per bound, a kept norm one); start the engine with more terms"
            )

    def require_known_positions(
        self, extra_args: Mapping[str, Any] | None, prompt_length: int
    ) -> None:
        """Raise ValueError for positions that begin or end within the answer.

        With speculative decoding the number of accepted drafts, and so the position of a generated
        token, is not known where the tables are written.
        """
        wire = (extra_args or {}).get(CHECKED_KEY)
        if wire and any(start > prompt_length for start in timeline_of(wire, prompt_length).starts):
            raise ValueError(
                "positions that begin or end within the answer cannot be steered with speculative "
                "decoding; 'all', 'prompt', 'generated' and ranges of the prompt can"
            )


def timeline_of(wire: list[Any], prompt_length: int) -> Timeline:
    """Return the timeline of checked terms."""
    return Timeline.of([Term.from_wire(own) for own in wire], prompt_length)
