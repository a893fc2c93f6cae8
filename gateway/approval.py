"""Four eyes: who published a version does not decide alone that it serves."""

from __future__ import annotations

from gramserve.access.principal import current
from gramserve.errors import PermissionDenied, Reason
from gramserve.store.registry import Registry


class Approval:
    """Says whether the caller may promote a version; with `four_eyes` off always."""

    def __init__(self, registry: Registry, *, four_eyes: bool) -> None:
        self._registry = registry
        self._four_eyes = four_eyes

    async def check(self, model: str, version: int) -> None:
        """Raises PermissionDenied (SELF_APPROVAL) when the caller published it; what the registry raises."""
        if not self._four_eyes:
            return
        manifest, _ = await self._registry.manifest(model, version)
        if manifest.provenance is not None and manifest.provenance.requested_by == current().name:
            raise PermissionDenied(
                Reason.SELF_APPROVAL, "who published a version may not promote it; another model approver can"
            )
