"""What a running forward pass knows: its batch, its tokens, where its prompts end, its thread.

One per patched model, and the only owner of that state. Whoever calls the decoder fills it
(`faststeer.patching` for transformers); the tables only hold what kernels read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from faststeer.steering.condition_gates import ConditionGates
from faststeer.steering.conditions import Condition, TokenCondition
from faststeer.steering.device_tables import DeviceTables
from faststeer.steering.fold_coefficients import EntryGroup
from faststeer.steering.scope_columns import ScopeColumns
from faststeer.steering.scopes import Scope
from faststeer.steering.sequence_memory import SequenceMemory
from faststeer.steering.thread_guard import ThreadGuard
from faststeer.steering.token_positions import BatchTokens, PromptLayout, TokenPositions


class ForwardContext:
    """The state of the forward pass that is running, and of the `generate` around it.

    `prompts` and `unknown_prompts` are set inside `with_prompts`, as around a `generate`: where the
    prompts end, or why that is not known. `prompt_lengths` ``[B]`` is set by the caller.
    `outer_masks` holds the thread, the attention mask and the ids of every model around the decoder
    that is running.
    """

    def __init__(self, device: torch.device) -> None:
        """Create the idle state. `device`: where a forward pass starts."""
        self.guard = ThreadGuard()
        self.gates = ConditionGates(device)
        self.memory = SequenceMemory(device)
        self.device_tables: list[DeviceTables] = []
        self.watchers: list[Callable[[BatchTokens], None]] = []  # called when a forward starts
        self.watched: list[Scope] = []  # whose masks these look at
        # The scope of each group, that of all tokens first. Kept, and not made from the vectors
        # when asked: graphs look at it, and must not depend on their names.
        self.scope_columns = ScopeColumns()
        self.conditions: list[Condition | None] = [None]
        self._token_conditions: list[TokenCondition | None] = [None]
        self.may_need_tokens = False  # some group selects tokens or sequences, and may get slots
        self._groups_need_tokens = False  # one that has slots does
        self.rows = 1  # of steering; they divide the batch
        # Of the generate that is running, and of the caller.
        self.prompts: PromptLayout | None = None
        self.unknown_prompts: str | None = None
        self.prompt_lengths: Tensor | None = None
        self.longest_prompt = 0  # of these
        self.outer_masks: list[tuple[int, Any, Any]] = []
        # Of the forward that is running.
        self.batch_shape = 0, 0  # [B, T]
        self.capturing = False  # a CUDA graph is being captured
        self.direct = False  # ops may be called without torch's dispatcher: the caller sets it
        self._sequences = 0
        self._tokens: TokenPositions | None = None
        self._mask: Tensor | None = None  # [B, T, K] of the scopes
        self._generated: list[bool] | None = None  # whether each group acts on generated tokens
        self._decided: list[Tensor | None] = [None]  # [B, T] by token, per group

    @property
    def in_graph(self) -> bool:
        """Whether the forward is becoming a graph: compiled, or captured."""
        return torch.compiler.is_compiling() or self.capturing

    @property
    def scopes(self) -> list[Scope | None]:
        """The scope of each column of the index; None for every token."""
        return self.scope_columns.scopes

    @property
    def needs_tokens(self) -> bool:
        """Whether the forward depends on positions; a graph's may, later on."""
        return self.may_need_tokens if self.in_graph else self._groups_need_tokens

    @property
    def asks_for_tokens(self) -> bool:
        """Whether the forward, or what watches it, asks anything about the call's tokens."""
        return bool(self.needs_tokens or self.watchers or any(self.conditions))

    def set_groups(self, groups: Sequence[EntryGroup], used: Sequence[EntryGroup]) -> None:
        """Set what each column of the index selects; `used`: the groups that have slots."""
        self.scope_columns = ScopeColumns([group.scope for group in groups])
        self.conditions = [group.when for group in groups]
        by_token = [own if isinstance(own, TokenCondition) else None for own in self.conditions]
        self._decided = [None if own is None else self.decided(own) for own in by_token]
        self._token_conditions = by_token
        self.gates.set_conditions(
            [None if isinstance(own, TokenCondition) else own for own in self.conditions]
        )
        # States are kept while nothing steers too: what comes later depends on them.
        self._groups_need_tokens = self.keep_states() or any(map(_selects, used))
        self.may_need_tokens = any(map(_selects, groups))

    @contextmanager
    def with_prompts(self, prompts: PromptLayout | None, unknown: str | None) -> Iterator[None]:
        """Inside, forward passes are of these prompts and what follows them; nests.

        Args:
            prompts: where they end; None where each forward pass shows it, or it is not known.
            unknown: why it is not known, for the error of a scope that needs it.
        """
        before = self.prompts, self.unknown_prompts
        self.prompts, self.unknown_prompts = prompts, unknown
        try:
            yield
        finally:
            self.prompts, self.unknown_prompts = before

    def begin(self, sequences: int, tokens: int, device: torch.device) -> None:
        """Start a forward pass over ``[sequences, tokens]``.

        Raises:
            ValueError: rows that do not divide the sequences. A graph's are checked on the device.
        """
        graph = torch.compiler.is_compiling()
        if not graph:
            on_gpu = device.type == "cuda"
            graph = self.capturing = on_gpu and torch.cuda.is_current_stream_capturing()
            self._sequences = sequences
            self._require_rows()
            self.move(device)
        self.batch_shape = sequences, tokens
        self.memory.begin(graph)
        self._decided = [None] * len(self._token_conditions)
        self._tokens = self._mask = self._generated = None  # a forward that failed did not end
        if any(self.gates.conditions):
            (self.gates.require_room if graph else self.gates.make_room)(sequences)
        for tables in self.device_tables:
            tables.begin(sequences if graph else None)

    def move(self, device: torch.device) -> None:
        """Follow the batches to a device; what was decided or kept on another is lost."""
        self.gates.move(device)
        self.memory.move(device)

    @contextmanager
    def fresh_decisions(self, nested: bool) -> Iterator[None]:
        """Inside, decide on the new prompts of a `generate`, and follow its sequences.

        One that is nested in another restores what that one had decided and kept.
        """
        with self.gates.fresh_decisions(nested), self.memory.fresh(nested):
            yield

    def select(self, tokens: TokenPositions) -> None:
        """Let each group act on the tokens of its scope, and on sequences that meet its condition.

        Holds for the rest of the forward.
        """
        self._tokens, self._mask = tokens, self.scope_columns.masks(tokens, self.in_graph)
        self.apply_mask()

    def select_generated(self) -> bool:
        """Do as `select` in a forward of generated tokens alone, without looking at each of them.

        Return False where some group's scope depends on which tokens they are.
        """
        acting = [True if scope is None else scope.generated for scope in self.scopes]
        self._generated = None
        if None in acting or any(self._token_conditions):
            return False
        self._generated = [bool(acts) for acts in acting]
        self.apply_mask()
        return True

    def _apply_generated(self, acting: list[bool]) -> None:
        """Let each group act on all tokens, or on none, of the sequences that met its condition."""
        if any(self.gates.conditions):
            passed = self.gates.passed_by(self.batch_shape[0], False)
            if not all(acting):
                passed = passed & torch.tensor(acting, device=passed.device)
            for tables in self.device_tables:
                tables.apply_mask(passed[:, None])
        elif not all(acting):
            for tables in self.device_tables:
                tables.keep_columns(acting)

    def decide(self, condition: Condition, direction: Tensor, hidden: Tensor) -> None:
        """Decide a condition on ``[B, T, H]`` at its site; it counts for all later layers."""
        if self._tokens is None or self._mask is None:
            return  # no active vector depends on it
        if isinstance(condition, TokenCondition):
            held = self._decide_by_token(condition, direction, hidden, self._tokens)
            self._decided = [
                held if own is condition else before
                for own, before in zip(self._token_conditions, self._decided, strict=True)
            ]
        else:
            self.gates.decide(condition, direction, hidden, self._tokens, self.in_graph)
        self.apply_mask()

    def _decide_by_token(
        self, condition: TokenCondition, direction: Tensor, hidden: Tensor, tokens: TokenPositions
    ) -> Tensor:
        """Return the tokens ``[B, T]`` for which a condition holds, and keep those that met it."""
        positions = tokens.positions
        met = condition.met(hidden, direction).to(positions.device) & (positions >= 0)
        if not condition.hysteresis:
            return met
        # One more than the position of the last token that met it; 0 for none.
        before = self.memory.before(condition.key, tokens).to(positions.device)
        last = torch.where(met, positions + 1, 0).cummax(1).values.maximum(before[:, None])
        self.memory.write(condition.key, tokens, last)
        return (last > 0) & (positions + 1 - last <= condition.hysteresis)

    def apply_mask(self) -> None:
        """Write the selected tokens, and what conditions decided, into the tables."""
        if self._generated is not None:
            self._apply_generated(self._generated)
        if self._mask is None:
            return
        passed = self.gates.passed_by(self._mask.shape[0], self.in_graph)
        mask = self._mask & passed[:, None].to(self._mask.device)
        if any(self._token_conditions):
            both = zip(self._token_conditions, self._decided, strict=True)
            mask = mask & torch.stack([self._holds(*own) for own in both], 2)
        for tables in self.device_tables:
            tables.apply_mask(mask)

    def refresh(self) -> None:
        """Let what was written during a forward take effect in the rest of it.

        What depends on tokens that the forward did not ask about acts from the next one on.

        Raises:
            ValueError: as `begin`.
        """
        self._require_rows()
        if self._tokens is not None:
            self.select(self._tokens)
        elif self._generated is not None and self.select_generated():
            return
        elif self._groups_need_tokens:
            free = [
                s is None and c is None for s, c in zip(self.scopes, self.conditions, strict=True)
            ]
            for tables in self.device_tables:
                tables.keep_columns(free)

    def end(self) -> None:
        """End the forward and let go of what it looked up.

        Not where a backward pass may follow: checkpointed layers run again in it.
        """
        if torch.is_grad_enabled() and not self.in_graph:
            return
        self._tokens = self._mask = self._generated = None
        if self.in_graph:
            self._decided = [None] * len(self._token_conditions)
        for tables in self.device_tables:
            tables.reset()

    def decided(self, condition: TokenCondition) -> Tensor | None:
        """Return the tokens ``[B, T]`` of the last forward for which a condition held."""
        if condition not in self._token_conditions:
            return None
        return self._decided[self._token_conditions.index(condition)]

    def _holds(self, condition: TokenCondition | None, decided: Tensor | None) -> Tensor:
        """Return the tokens ``[B, T]`` for which a condition holds, none before it is decided."""
        assert self._mask is not None
        if decided is not None:
            return decided
        return torch.full(self._mask.shape[:2], condition is None, device=self._mask.device)

    def keep_states(self) -> bool:
        """Keep the states of scopes and conditions; return whether those that steer have any."""
        scopes = [scope for scope in self.scopes if scope is not None]
        steering = [part.key for scope in scopes for part in scope.parts() if part.key]
        conditions = [own for own in self._token_conditions if own is not None]
        steering += [own.key for own in conditions if own.hysteresis]
        watched = [part.key for scope in self.watched for part in scope.parts() if part.key]
        self.memory.keep({*steering, *watched})
        for scope in (*scopes, *self.watched):
            for part in scope.parts():
                if part.automaton is not None:
                    part.automaton.on(self.memory.device)  # now, and not while a graph is made
        return bool(steering)

    def _require_rows(self) -> None:
        if self._sequences % self.rows:
            raise ValueError(
                f"there are {self.rows} rows of steering for a batch of {self._sequences} "
                "sequences; give one row a sequence, or one for each of several equal groups"
            )


def _selects(group: EntryGroup) -> bool:
    return group.scope is not None or group.when is not None
