"""`Patched`: the handle of a patched model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

from faststeer.models.vector_origin import warn_of_other_model
from faststeer.patching.interventions import Interventions
from faststeer.steering.conditions import Condition
from faststeer.steering.handles import Handle
from faststeer.steering.intervention import Intervention
from faststeer.steering.learned import Learned
from faststeer.steering.plan import Row
from faststeer.steering.positions import Positions
from faststeer.steering.resolved_use import (
    resolve_caps,
    resolve_coefficient,
    resolve_layers,
    resolve_mode,
    resolve_scope,
)
from faststeer.steering.row_settings import RowSettings
from faststeer.steering.unnamed import name_for, warn_of_replacing
from faststeer.vectors.arguments import Layers, finite, layer_factors, require_fitting
from faststeer.vectors.bounds import Bound, Bounds
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.steering_vector import SteeringVector


class Patched(Interventions):
    """The handle of a patched model: adds and removes steering, and restores the model."""

    @property
    def handles(self) -> list[Handle]:
        """The active vectors, in the order in which they are summed."""
        return [Handle(self.plan, name) for name in self.plan.interventions]

    def steer(
        self,
        vector: SteeringVector,
        coefficient: float | None = None,
        *,
        layers: Layers = None,
        name: str | None = None,
        mode: str | None = None,
        positions: Positions | None = None,
        keep_norm: bool = False,
        when: Condition | None = None,
        **unknown: NoReturn,
    ) -> Handle:
        """Steer the residual stream at the vector's site.

        Args:
            vector: directions ``[H]``, one per layer.
            coefficient: the factor on all of them, or as `mode` defines; live on the handle.
                Default: what the vector states, or else 1.0.
            layers: one layer, several, or {layer: factor} with the factor multiplying the
                coefficient there. Default: what the vector states, or else every layer of the
                vector, which is a strong dose.
            name: the handle's name; a repeated name replaces. Default: the vector's name. Without
                a name, a vector that is steered at some of the same layers already is replaced
                (with a `FaststeerWarning` if more than its strength differs), and at other layers
                it acts besides, as "name-2", ...
            mode: by default what the vector states (`SteeringVector.for_use`), or else "add".
                "add" adds ``coefficient * direction``. The others take the direction at norm 1,
                after all additions at the site, in the order of steering: "project" removes the
                fraction `coefficient` of the residual's projection on it (1.0: all of it, see
                `ablate`), "clamp" sets the projection to `coefficient`, as one sets a feature of a
                sparse autoencoder, and "cap" is `cap` with the bounds that the vector states.
            positions: the tokens it acts on, by default what the vector states, or else "all":
                "all", "prompt", "generated" (from the first generated token's own position),
                "from_last_prompt" (from the one that predicts it), "last" (of the prompt),
                a scope of what is written (`faststeer.after`, `until`, `between`, `first`, `at`,
                combined by ``&``, ``|`` and ``~``), a range or slice (negative numbers count from
                the prompt's end: range(-3, 0) is its last three), a list of such numbers ([0, 1]
                is range(0, 2)), a function of positions ``[B, T]`` and prompt lengths ``[B, 1]``,
                or a bool mask ``[P]`` or ``[B, P]`` over the prompts. With gradient checkpointing,
                run the backward pass before the next forward.
            keep_norm: where this vector acts, the residual is rescaled to the norm that it had
                before all steering at that site.
            when: a `faststeer.when` of an earlier layer: only sequences, or tokens, that meet it
                are steered.
            unknown: nothing; other keywords are refused.

        Raises:
            TypeError: not a SteeringVector, a coefficient that is not a number, or a `when` that
                is not a condition.
            ValueError: wrong hidden size, a layer that the model or the vector lacks, a
                coefficient that is not finite, an unknown mode, a direction of zeros to project
                on, a condition that is read too late; nothing has changed then.
        """
        refuse_unknown("steer", unknown, "layers")
        self.require_patched()
        require_fitting(vector, self.hidden_size, "steer")
        coefficient = resolve_coefficient(vector, coefficient)
        coefficient = finite(coefficient, f"coefficient of {name or vector.name!r}")
        mode = resolve_mode(vector, mode)
        bounds: dict[int, Bounds] = {}
        if mode == "cap":
            factors, bounds = resolve_caps(vector, None, None, layers, self.num_layers)
        else:
            factors = layer_factors(vector, resolve_layers(vector, layers), self.num_layers)
        scope = resolve_scope(vector, positions, self.plan.tables.device)
        acting = vector if mode == "add" else vector.normalized()
        return self._put(
            name,
            Intervention(acting, coefficient, factors, scope, mode, keep_norm, when, bounds=bounds),
        )

    def cap(
        self,
        vector: SteeringVector,
        *,
        ceiling: Bound = None,
        floor: Bound = None,
        layers: Layers = None,
        fraction: float = 1.0,
        name: str | None = None,
        positions: Positions | None = None,
        keep_norm: bool = False,
        when: Condition | None = None,
        **unknown: NoReturn,
    ) -> Handle:
        """Hold the projection on a direction within bounds; a token within them is left as it is.

        Activation capping after Lu et al. 2026 (arXiv 2601.10387), with a bound on either side:
        a token whose projection p on the direction, at norm 1, is above the ceiling or below the
        floor is moved along the direction to that bound. It acts after additions, in the order of
        steering, as "project" and "clamp" do, and costs what they cost.

        Args:
            vector: directions ``[H]``, one per layer.
            ceiling: the greatest projection, for all layers or {layer: bound}, in units of the
                residual stream; live on the handle.
            floor: the least, likewise. Without either, the bounds that the vector states.
            layers: as for `steer`. Default: the layers that the bounds name, or what the vector
                states, or else every layer of the vector.
            fraction: how much of the way to the bound a token is moved: 1.0 all of it, 0.0 none;
                live as the handle's coefficient.
            name: as for `steer`, and so are `positions`, `keep_norm` and `when`.
            positions: the tokens it acts on.
            keep_norm: whether the residual is rescaled to its norm before steering.
            when: a condition on the prompt.
            unknown: nothing; other keywords are refused.

        Rows take a cap's bounds in place of a coefficient, ``{"axis": {"ceiling": 3.0}}``; what a
        row leaves out is unbounded there.

        Raises:
            TypeError: as `steer`, and a bound that is not a number.
            ValueError: as `steer`, and no bound, one that is not finite, or a ceiling under its
                floor.
        """
        refuse_unknown("cap", unknown, "layers")
        self.require_patched()
        require_fitting(vector, self.hidden_size, "cap")
        fraction = finite(fraction, f"fraction of {name or vector.name!r}")
        resolve_mode(vector, "cap")
        factors, bounds = resolve_caps(vector, floor, ceiling, layers, self.num_layers)
        scope = resolve_scope(vector, positions, self.plan.tables.device)
        unit = vector.normalized()
        return self._put(
            name,
            Intervention(unit, fraction, factors, scope, "cap", keep_norm, when, bounds=bounds),
        )

    def ablate(
        self,
        vector: SteeringVector,
        *,
        layer: int | None = None,
        fraction: float = 1.0,
        name: str | None = None,
        positions: Positions | None = None,
        **unknown: NoReturn,
    ) -> Handle:
        """Remove one direction from the residual stream at every site of every layer.

        Directional ablation after Arditi et al. 2024 (arXiv 2406.11717), section 2.4: what the
        model writes along the direction, it cannot read.

        Args:
            vector: has the direction ``[H]``.
            layer: whose direction it is; optional where the vector has one layer.
            fraction: how much of it is removed; live as the handle's coefficient.
            name: as for `steer`.
            positions: as for `steer`.
            unknown: nothing; other keywords are refused.

        Raises:
            TypeError, ValueError: as `steer`, and where `layer` is omitted and ambiguous.
        """
        refuse_unknown("ablate", unknown, "layer")
        self.require_patched()
        require_fitting(vector, self.hidden_size, "ablate")
        if layer is None and len(vector.layers) > 1:
            raise ValueError(f"{vector.name!r} has layers {vector.layers}; say which with layer=")
        direction = vector.at(vector.layers[0] if layer is None else layer).normalized()
        (only,) = direction.directions.values()
        factors = dict.fromkeys(range(self.num_layers), 1.0)
        everywhere = replace(vector, directions=dict.fromkeys(factors, only), site="resid_post")
        fraction = finite(fraction, f"fraction of {name or vector.name!r}")
        resolve_mode(vector, "project")
        scope = resolve_scope(vector, positions, self.plan.tables.device)
        kinds = tuple(sorted({site.kind for site in self.plan.tables}))
        return self._put(
            name, Intervention(everywhere, fraction, factors, scope, "project", kinds=kinds)
        )

    def __getitem__(self, name: str) -> Handle:
        """Return the handle of that name. Raises KeyError, which lists the names."""
        if name not in self.plan.interventions:
            there = ", ".join(map(repr, self.plan.interventions)) or "none"
            raise KeyError(f"no active vector is named {name!r}; there are: {there}")
        return Handle(self.plan, name)

    @contextmanager
    def off(self) -> Iterator[Patched]:
        """Steer nothing inside the `with` block; the vectors are active again on exit.

        A checkpointed layer is recomputed in the backward pass, with the steering active then: run
        both passes in the same state.
        """
        self.require_patched()
        with self.plan.off():
            yield self

    def rows(self, rows: Sequence[Row]) -> RowSettings:
        """Steer each sequence of a batch on its own, inside the `with` block of the result.

        Args:
            rows: one entry per sequence: {name: coefficient} or {name: {layer: coefficient}} of
                vectors added by `steer`, and of a `cap` also {name: {"ceiling": bound}}, with
                "floor" and "fraction"; a row is steered only by those it names, and ``{}`` is
                unsteered. Rows replace the shared coefficients. With fewer rows than
                sequences each row covers as many consecutive ones (num_return_sequences, beams).

        Raises:
            TypeError: not a list of mappings, or a coefficient or a bound that is not a number.
            ValueError: no rows, a name that is not active, a layer that the vector lacks, or a
                coefficient that is not finite. A forward raises it where rows do not divide the
                batch.
        """
        self.require_patched()
        return RowSettings(self.plan, rows)

    def learn(
        self,
        vector: SteeringVector,
        coefficient: float | None = None,
        *,
        layers: Layers = None,
        name: str | None = None,
        **unknown: NoReturn,
    ) -> Learned:
        """Steer with a trainable vector, whose parameters are for an optimiser.

        It acts on all tokens of all sequences, in addition to other vectors, and starts from
        `vector`.
        Arguments and errors are those of `steer`; without a name, one that acts at some of the
        same layers is replaced.
        """
        refuse_unknown("learn", unknown, "layers")
        self.require_patched()
        require_fitting(vector, self.hidden_size, "learn")
        resolve_mode(vector, "add")
        resolve_scope(vector, "all", self.plan.tables.device)
        factors = layer_factors(vector, resolve_layers(vector, layers), self.num_layers)
        coefficient = resolve_coefficient(vector, coefficient)
        coefficient = finite(coefficient, f"coefficient of {name or vector.name!r}")
        intervention = Intervention(vector, coefficient, factors)
        self._require_sites(intervention)
        if name is None:
            active = {own: (one.vector.name, one.sites) for own, one in self.plan.learned.items()}
            name = name_for(vector.name, intervention.sites(), active)
            if name in active:
                warn_of_replacing(name, self.plan.learned[name], intervention, 3)
        warn_of_other_model(vector, self.decoder)
        return self.plan.learn(name, intervention)

    def clear(self) -> None:
        """Remove every vector; the model stays patched."""
        self.plan.forward.guard.require()
        self.plan.clear()

    def __repr__(self) -> str:
        """Return the decoder's class and the active vectors."""
        return f"Patched({type(self.decoder).__name__}, {self.handles})"
