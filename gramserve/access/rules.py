"""Which roles may make which call, and where its request names a laboratory: read from the contract."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pool

from gramserve.access.principal import Principal, Role
from gramserve.errors import PermissionDenied, Reason
from gramserve.v1 import access_pb2


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may make one call: `(gramserve.v1.access)` of its method.

    `laboratory_field` is the path to the field of the request, or of the first message of a client stream, that names
    a laboratory or something in it; empty for a call that concerns none.
    """

    roles: frozenset[Role]
    laboratory_field: tuple[str, ...] = ()

    def check_role(self, principal: Principal) -> None:
        """Raises PermissionDenied (PERMISSION_DENIED) when `principal` has none of the roles."""
        if self.roles.isdisjoint(principal.roles):
            wanted = ", ".join(sorted(self.roles)) or "none that there is"
            raise PermissionDenied(Reason.PERMISSION_DENIED, f"this call needs one of these roles: {wanted}")

    def check_laboratory(self, principal: Principal, request: Any) -> None:
        """Raises PermissionDenied (PERMISSION_DENIED) when `request` concerns a laboratory that is not the caller's.

        The answer is the same whether there is such a laboratory, or anything in it: nothing was looked up. A name in
        which no laboratory can be read is nobody's, except for those who may see all.
        """
        if not self.laboratory_field:
            return
        name = request
        for field in self.laboratory_field:
            name = getattr(name, field)
        if not principal.may_see(laboratory_in(name)):
            field = ".".join(self.laboratory_field)
            raise PermissionDenied(Reason.PERMISSION_DENIED, f"{field} does not name a laboratory of the caller")


ANY_ROLE = Rule(frozenset(Role))
NOBODY = Rule(frozenset())


def laboratory_in(name: str) -> str:
    """The id in "laboratories/{laboratory}" or "laboratories/{laboratory}/...", "" in anything else."""
    collection, _, rest = name.partition("/")
    return rest.partition("/")[0] if collection == "laboratories" else ""


def rules_of(services: Iterable[str]) -> dict[str, Rule]:
    """The rule of every method of `services` (full names) by the name of its call, "/package.Service/Method".

    Raises LookupError for a service that there is not, a method that declares nothing and one that lets nobody in.
    """
    rules = {}
    for service in services:
        for method in descriptor_pool.Default().FindServiceByName(service).methods:
            option = method.GetOptions().Extensions[access_pb2.access]
            if not option.roles:
                raise LookupError(f"{method.full_name} does not say who may call it: (gramserve.v1.access)")
            field = tuple(option.laboratory_field.split(".")) if option.laboratory_field else ()
            rules[f"/{service}/{method.name}"] = Rule(frozenset(map(_role, option.roles)), field)
    return rules


def _role(number: int) -> Role:
    name = access_pb2.Role.Name(access_pb2.Role.ValueType(number))
    return Role(name.removeprefix("ROLE_").lower().replace("_", "-"))
