"""What a running forward pass knows: its batch, its tokens, where its prompts end, its thread.

One per patched model, and the only owner of that state. Whoever calls the decoder fills it
(`faststeer.patching` for transformers); the tables only hold what kernels read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from faststeer.steering.condition_gates import ConditionGates
from faststeer.steering.conditions import Condition
from faststeer.steering.device_tables import DeviceTables
from faststeer.steering.fold_coefficients import EntryGroup
from faststeer.steering.positions import Scope
from faststeer.steering.thread_guard import ThreadGuard
from faststeer.steering.token_positions import BatchTokens, PromptLayout, TokenPositions


class ForwardContext:
    """The state of the forward pass that is running, and of the `generate` around it.

    `prompts` and `unknown_prompts` are set while a `generate` runs: where its prompts end, or why
    that is not known. `prompt_lengths` ``[B]`` is set by the caller. `outer_masks` holds the thread
    and the attention mask of every model around the decoder that is running.
    """

    def __init__(self, device: torch.device) -> None:
        """Create the idle state. `device`: where a forward pass starts."""
        self.guard = ThreadGuard()
        self.gates = ConditionGates(device)
        self.device_tables: list[DeviceTables] = []
        self.watchers: list[Callable[[BatchTokens], None]] = []  # called when a forward starts
        # The scope of each group, that of all tokens first. Kept, and not made from the vectors
        # when asked: graphs look at it, and must not depend on their names.
        self.scopes: list[Scope | None] = [None]
        self.may_need_tokens = False  # some group selects tokens or sequences, and may get slots
        self._groups_need_tokens = False  # one that has slots does
        self.rows = 1  # of steering; they divide the batch
        # Of the generate that is running, and of the caller.
        self.prompts: PromptLayout | None = None
        self.unknown_prompts: str | None = None
        self.prompt_lengths: Tensor | None = None
        self.longest_prompt = 0  # of these
        self.outer_masks: list[tuple[int, Any]] = []
        # Of the forward that is running.
        self.batch_shape = 0, 0  # [B, T]
        self.capturing = False  # a CUDA graph is being captured
        self.direct = False  # ops may be called without torch's dispatcher: the caller sets it
        self._sequences = 0
        self._tokens: TokenPositions | None = None
        self._mask: Tensor | None = None  # [B, T, K] of the scopes
        self._generated: list[bool] | None = None  # whether each group acts on generated tokens

    @property
    def in_graph(self) -> bool:
        """Whether the forward is becoming a graph: compiled, or captured."""
        return torch.compiler.is_compiling() or self.capturing

    @property
    def needs_tokens(self) -> bool:
        """Whether the forward depends on positions; a graph's may, later on."""
        return self.may_need_tokens if self.in_graph else self._groups_need_tokens

    @property
    def asks_for_tokens(self) -> bool:
        """Whether the forward, or what watches it, asks anything about the call's tokens."""
        return bool(self.needs_tokens or self.watchers or any(self.gates.conditions))

    def set_groups(self, groups: Sequence[EntryGroup], used: Sequence[EntryGroup]) -> None:
        """Set what each column of the index selects; `used`: the groups that have slots."""
        self.scopes = [group.scope for group in groups]
        self.gates.set_conditions([group.when for group in groups])
        self._groups_need_tokens = any(map(_selects, used))
        self.may_need_tokens = any(map(_selects, groups))

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
            self.gates.move(device)
        self.batch_shape = sequences, tokens
        self._tokens = self._mask = self._generated = None  # a forward that failed did not end
        if any(self.gates.conditions):
            (self.gates.require_room if graph else self.gates.make_room)(sequences)
        for tables in self.device_tables:
            tables.begin(sequences if graph else None)

    def select(self, tokens: TokenPositions) -> None:
        """Let each group act on the tokens of its scope, and on sequences that meet its condition.

        Holds for the rest of the forward.
        """
        masks = [
            torch.ones_like(tokens.positions, dtype=torch.bool)
            if scope is None
            else scope.mask(tokens)
            for scope in self.scopes
        ]
        self._tokens, self._mask = tokens, torch.stack(masks, 2)
        self.apply_mask()

    def select_generated(self) -> bool:
        """Do as `select` in a forward of generated tokens alone, without looking at each of them.

        Return False where some group's scope depends on which tokens they are.
        """
        acting = [True if scope is None else scope.generated for scope in self.scopes]
        self._generated = None
        if None in acting:
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
        self.gates.decide(condition, direction, hidden, self._tokens, self.in_graph)
        self.apply_mask()

    def apply_mask(self) -> None:
        """Write the selected tokens, and what conditions decided, into the tables."""
        if self._generated is not None:
            self._apply_generated(self._generated)
        if self._mask is None:
            return
        passed = self.gates.passed_by(self._mask.shape[0], self.in_graph)
        mask = self._mask & passed[:, None].to(self._mask.device)
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
            conditions = self.gates.conditions
            free = [s is None and c is None for s, c in zip(self.scopes, conditions, strict=True)]
            for tables in self.device_tables:
                tables.keep_columns(free)

    def end(self) -> None:
        """End the forward and let go of what it looked up.

        Not where a backward pass may follow: checkpointed layers run again in it.
        """
        if torch.is_grad_enabled() and not self.in_graph:
            return
        self._tokens = self._mask = self._generated = None
        for tables in self.device_tables:
            tables.reset()

    def _require_rows(self) -> None:
        if self._sequences % self.rows:
            raise ValueError(
                f"there are {self.rows} rows of steering for a batch of {self._sequences} "
                "sequences; give one row a sequence, or one for each of several equal groups"
            )


def _selects(group: EntryGroup) -> bool:
    return group.scope is not None or group.when is not None
