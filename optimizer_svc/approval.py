"""Whether an optimization may promote what it publishes: that is a decision of its own."""

from __future__ import annotations

from gramserve.access.principal import ANYONE, Principal, Role
from gramserve.errors import PermissionDenied, Reason


def check_promotion(caller: Principal, *, promote: bool, four_eyes: bool) -> None:
    """Raises PermissionDenied when `caller` may not ask for `promote`.

    SELF_APPROVAL with `four_eyes`: who publishes a version does not promote it. Else PERMISSION_DENIED without the role
    model-approver.
    """
    if not promote or caller == ANYONE:
        return
    if four_eyes:
        raise PermissionDenied(
            Reason.SELF_APPROVAL,
            "who publishes a version may not promote it: optimize without promotion, and let another approve",
        )
    if Role.MODEL_APPROVER not in caller.roles:
        raise PermissionDenied(
            Reason.PERMISSION_DENIED, f"promotion needs the role {Role.MODEL_APPROVER}: optimize without it"
        )


def name_of(caller: Principal) -> str:
    """The name to keep as that of the publisher; "" where nobody is told apart."""
    return "" if caller == ANYONE else caller.name
