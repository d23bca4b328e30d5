"""Statistics of the residual stream in a worker, updated by the model's own forward passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faststeer.extraction.moments import Moments
from faststeer.vllm.batch import Step
from faststeer.vllm.captured_tokens import CapturedTokens, CaptureRequest

_NORMS_PER_GROUP = 1024

# By layer: counts, and the bytes of means, of centred second moments and of norms.
State = dict[int, tuple[list[int], bytes, bytes, bytes]]


class Statistics:
    """Moments of chosen tokens by layer and group, and norms of tokens, at fixed addresses.

    `group` ``[layers, N]`` int32 has each token's group at each layer, -1 for none; `place` ``[N]``
    int64 where its norm goes. States are tensors of their own for each layer, since a compiled
    graph would take views of one tensor for the same state.
    """

    def __init__(
        self,
        layers: Iterable[int],
        hidden_size: int,
        groups: int,
        longest: int,
        most_tokens: int,
        device: torch.device,
    ) -> None:
        """Create the tables.

        Args:
            layers: of this process, at whose ``resid_post`` tokens count.
            hidden_size: H.
            groups: G.
            longest: the most tokens of a request.
            most_tokens: N, the most tokens of a step, padding included.
            device: of the model.
        """
        self.rows = {layer: row for row, layer in enumerate(layers)}
        self.places = places_for(groups, longest)
        with torch.inference_mode(False):
            shape = (len(self.rows), most_tokens)
            self.group = torch.full(shape, -1, dtype=torch.int32, device=device)
            # Norms that nobody asked for all go to the place behind the last one.
            self.place = torch.full((most_tokens,), self.places, dtype=torch.int64, device=device)
            self.moments = {layer: Moments(hidden_size, groups, device) for layer in self.rows}
            self.norms = {layer: torch.zeros(self.places + 1, device=device) for layer in self.rows}
        self._captured: dict[int, CapturedTokens] = {}  # by serial, through preemption
        self._last = self._nothing(0)
        self._active = False

    def tensors(self, layer: int) -> dict[str, Tensor]:
        """Return what the module that computes this layer's ``resid_post`` reads and updates."""
        tables = {"group": self.group[self.rows[layer]], "place": self.place}
        return {**tables, **self.moments[layer].state_dict(), "norms": self.norms[layer]}

    def write(self, step: Step, captures: Mapping[str, tuple[Sequence[Any], int]]) -> None:
        """Write the group of each token of a step.

        `captures`: what requests ask for, by id, as `CaptureRequest.to_wire` wrote it, and the
        length of the prompt.
        """
        if not (captures or self._active):
            return
        group, place = self._nothing(int(step.scheduled.sum()))
        begin, active = 0, False
        for request, count, start in zip(
            step.request_ids, step.scheduled, step.computed, strict=True
        ):
            end = begin + int(count)
            asked = captures.get(request)
            if asked is not None:
                active = True
                self._tokens(*asked).mark(int(start), group[:, begin:end], place[begin:end])
            begin = end
        if active or self._active:
            self._put(group, place)
        self._active = active

    def reset(self) -> None:
        """Start again without tokens."""
        self._captured.clear()
        self._put(*self._nothing(0))
        self._active = False
        with torch.inference_mode(False), torch.no_grad():
            for layer, moments in self.moments.items():
                for tensor in (*moments.state_dict().values(), self.norms[layer]):
                    tensor.zero_()

    def state(self, groups: int, norms: int) -> State:
        """Return the statistics of the first groups, and that many norms, for another process."""
        return {
            layer: (
                own.count[:groups].tolist(),
                _bytes(own.mean[:groups]),
                _bytes(own.state_dict()["m2"][:groups]),
                _bytes(self.norms[layer][:norms]),
            )
            for layer, own in self.moments.items()
        }

    def _tokens(self, wire: Sequence[Any], prompt_length: int) -> CapturedTokens:
        serial = wire[0]
        if serial not in self._captured:
            request = CaptureRequest.from_wire(wire)
            self._captured[serial] = CapturedTokens(request, prompt_length, self.rows)
        return self._captured[serial]

    def _nothing(self, tokens: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        group = np.full((len(self.rows), tokens), -1, dtype=np.int32)
        return group, np.full(tokens, self.places, dtype=np.int64)

    def _put(self, group: NDArray[np.int32], place: NDArray[np.int64]) -> None:
        """Write the tables, with nothing for tokens that only the last step had."""
        if np.array_equal(group, self._last[0]) and np.array_equal(place, self._last[1]):
            return
        count, before = len(place), len(self._last[1])
        self._last = group, place
        with torch.inference_mode(False), torch.no_grad():
            self.group[:, :count] = torch.from_numpy(group).to(self.group.device)
            self.place[:count] = torch.from_numpy(place).to(self.place.device)
            self.group[:, count:before] = -1
            self.place[count:before] = self.places


def places_for(groups: int, longest: int) -> int:
    """Return how many norms are held: of one longest text, or of many of common lengths."""
    return max(longest, groups * _NORMS_PER_GROUP)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().numpy().tobytes()
