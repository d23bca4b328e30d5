"""Base class of `Patched`: an intervention is checked, named and made active."""

from __future__ import annotations

from faststeer.models.vector_origin import warn_of_other_model
from faststeer.patching.lifecycle import PatchLifecycle
from faststeer.steering.conditions import Condition
from faststeer.steering.dose_warnings import warn_of_zeros
from faststeer.steering.handles import Handle
from faststeer.steering.intervention import Intervention
from faststeer.steering.unnamed import name_for, warn_of_replacing


class Interventions(PatchLifecycle):
    """A patched model that takes interventions; warnings point to the caller of a public method."""

    def _put(self, given: str | None, intervention: Intervention) -> Handle:
        when = intervention.when
        if not (when is None or isinstance(when, Condition)):
            raise TypeError(f"when= got a {type(when).__name__}; expected a faststeer.when(...)")
        intervention.require_finite(intervention.by_layer())
        self._require_sites(intervention)
        active = self.plan.interventions
        name = given
        if name is None:
            sites = {own: (one.vector.name, one.sites()) for own, one in active.items()}
            name = name_for(intervention.vector.name, intervention.sites(), sites)
        before = active.get(name) if given is None else None
        if intervention.scope is not None or when is not None:
            self.signature.require_past(f"where {name!r} acts")
        warn_of_other_model(intervention.vector, self.decoder, 4)
        if when is not None:
            warn_of_other_model(when.vector, self.decoder, 4)
        warn_of_zeros(name, intervention)
        self.plan.put(name, intervention)
        if before is not None:
            warn_of_replacing(name, before, intervention, 4)
        self.plan.doses.expect(name, intervention)
        return Handle(self.plan, name)

    def _require_sites(self, intervention: Intervention) -> None:
        tables = self.plan.tables
        if intervention.when is not None:
            intervention.when.require_fitting(intervention.sites(), tables, self.hidden_size)
        if not intervention.sites() <= tables.keys():
            raise ValueError(
                f"{intervention.vector.site} of a {type(self.decoder).__name__} cannot be steered: "
                "its layers are not known from within; use resid_pre or resid_post"
            )
