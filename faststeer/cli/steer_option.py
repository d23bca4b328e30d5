"""Parse and apply the option `--steer FILE:layer=15:coefficient=2`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from faststeer.cli.options import layer_numbers
from faststeer.data.chat import ChatFormat
from faststeer.data.post_instruction import post_instruction_ids
from faststeer.patching.patched import Patched
from faststeer.steering.handles import Handle
from faststeer.steering.resolved_use import resolve_layers
from faststeer.vectors.arguments import Layers
from faststeer.vectors.bounds import bounds_by_layer
from faststeer.vectors.position_range import NAMED_POSITIONS, POST_INSTRUCTION, is_first
from faststeer.vectors.stated_use import MODES
from faststeer.vectors.steering_vector import SteeringVector

# N: 15 or 10-12
FORM = "FILE[:layer=N[,N...]][:coefficient=X][:mode=M][:ceiling=X][:floor=X][:positions=P]"
_USES = {"mode": MODES, "positions": (*NAMED_POSITIONS, POST_INSTRUCTION)}


def require_layers(vector: SteeringVector, layers: Layers, option: str) -> None:
    """Raise ValueError for a vector of several layers of which none is chosen.

    Args:
        vector: may state layers.
        layers: those that were given.
        option: how to give one, with ``{}`` in its place.
    """
    if resolve_layers(vector, layers) is None and len(vector.layers) > 1:
        middle = vector.layers[len(vector.layers) // 2]
        raise ValueError(
            f"{vector.name!r} has layers {vector.layers} and states none to steer; all of them "
            f"together are a dose that breaks text. Give one, such as {option.format(middle)}, or "
            "let `faststeer tune` find layer and coefficient and write them into the vector"
        )


@dataclass(frozen=True)
class SteerOption:
    """One parsed `--steer`: a vector file, its layers, coefficient, mode, bounds and positions.

    What is None is what the vector states. With bounds it is a cap, and the coefficient is the
    share of the excess that is removed (`fraction`).
    """

    path: str
    layers: list[int] | None = None
    coefficient: float | None = None
    mode: str | None = None
    positions: str | range | None = None
    floor: float | None = None
    ceiling: float | None = None

    @classmethod
    def parse(cls, text: str) -> SteerOption:
        """Parse text of the form `FORM`; ``multiplier`` is a synonym of ``coefficient``.

        Layers are as for `--layers`: 15, 3,4, 10-12 or all.

        Raises:
            ValueError: an unknown key, mode or positions, a value that is not a number, or bounds
                of another mode than "cap".
        """
        path, *settings = text.split(":")
        layers: list[int] | None = None
        coefficient: float | None = None
        use: dict[str, str] = {}
        bounds: dict[str, float] = {}
        for setting in settings:
            key, _, value = setting.partition("=")
            try:
                if key in {"layer", "layers"}:
                    chosen = layer_numbers(value, key)
                    layers = None if isinstance(chosen, str) else chosen
                elif key in {"coefficient", "multiplier"}:
                    coefficient = float(value)
                elif key in {"floor", "ceiling"}:
                    bounds[key] = float(value)
                elif key in _USES:
                    if value not in _USES[key] and not (key == "positions" and is_first(value)):
                        more = " or first(N)" if key == "positions" else ""
                        raise ValueError(f"{key} is one of {', '.join(_USES[key])}{more}")
                    use[key] = value
                else:
                    raise ValueError(f"unknown setting {key!r}")
            except ValueError as error:
                raise ValueError(f"--steer {text!r}: {error}; expected {FORM}") from error
        if bounds and use.setdefault("mode", "cap") != "cap":
            raise ValueError(
                f"--steer {text!r}: mode {use['mode']!r} has no {' or '.join(bounds)}; leave the "
                "mode out to cap"
            )
        option = cls(path, layers, coefficient, use.get("mode"), use.get("positions"), **bounds)
        if bounds:
            try:
                bounds_by_layer(option.floor, option.ceiling, [0])  # of any layer
            except ValueError as error:
                raise ValueError(f"--steer {text!r}: {error}") from error
        return option

    @cached_property
    def vector(self) -> SteeringVector:
        """The vector in the file; loading raises as `SteeringVector.load`."""
        return SteeringVector.load(self.path)

    def read(self) -> None:
        """Read the file now, so that a broken one is reported early. Raises as `vector`."""
        _ = self.vector

    def require_layers(self) -> None:
        """Raise as `require_layers` where neither the option nor the vector states layers."""
        chosen = f"--steer {self.path}:layer={{}}"
        require_layers(self.vector, self.layers, chosen)

    def in_chat(self, chat: ChatFormat | None) -> SteerOption:
        """Return the option with "post_instruction" as a range of positions in prompts of `chat`.

        Raises:
            ValueError: there is no chat format, and as `post_instruction_ids`.
        """
        if self.positions != POST_INSTRUCTION:
            return self
        if chat is None:
            raise ValueError(f"--steer {self.path}: positions={POST_INSTRUCTION} needs --chat")
        return replace(self, positions=range(-len(post_instruction_ids(chat)), 0))

    def apply(self, patched: Patched) -> Handle:
        """Steer `patched` with the vector; a number is appended to a name that is taken."""
        name, number = self.vector.name, 2
        while name in patched.plan.interventions:
            name, number = f"{self.vector.name}-{number}", number + 1
        if self.floor is not None or self.ceiling is not None:
            return patched.cap(
                self.vector,
                ceiling=self.ceiling,
                floor=self.floor,
                layers=self.layers,
                fraction=1.0 if self.coefficient is None else self.coefficient,
                name=name,
                positions=self.positions,
            )
        return patched.steer(
            self.vector,
            self.coefficient,
            layers=self.layers,
            name=name,
            mode=self.mode,
            positions=self.positions,
        )
