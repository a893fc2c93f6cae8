"""The door of every service: who calls, whether they may, and whether the laboratory is theirs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import grpc.aio

from gramserve.access.directory import Directory
from gramserve.access.principal import Principal, become
from gramserve.access.rules import ANY_ROLE, NOBODY, Rule
from gramserve.errors import Reason, Unauthenticated
from gramserve.rpc.handlers import Continuation, Handler, behaviour_of, with_behaviour

_OPEN = "/grpc.health."
_SHOWN_TO_ALL_KNOWN = "/grpc.reflection."
_SCHEME = "bearer "
_CERTIFICATE_NAMES = ("x509_common_name", "x509_subject_alternative_name")


class AccessControl(grpc.aio.ServerInterceptor):
    """Lets in whom `rules` let in; a call without a rule is nobody's. Health is open, reflection is for all known.

    Raises Unauthenticated and PermissionDenied inside the call: `ErrorsAndMetrics` stands around it. What the call does
    is done as `gramserve.access.principal.current()`. A stream ends when its caller may not have it any more.
    """

    def __init__(self, directory: Directory, rules: Mapping[str, Rule]) -> None:
        self._directory = directory
        self._rules = rules
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler of one call."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(_OPEN):
            return handler
        if method not in self._wrapped:
            known = method.startswith(_SHOWN_TO_ALL_KNOWN)
            self._wrapped[method] = self._wrap(handler, ANY_ROLE if known else self._rules.get(method, NOBODY))
        return self._wrapped[method]

    def _principal(self, context: Any) -> Principal:
        """A token says more than a certificate, which may be that of a machine; a wrong one is never overlooked."""
        tokens = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        if not tokens:
            parts = context.auth_context() or {}
            return self._directory.of_certificate(
                name.decode(errors="replace") for kind in _CERTIFICATE_NAMES for name in parts.get(kind, ())
            )
        text = str(tokens[0])
        if len(tokens) > 1 or text[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthenticated(Reason.UNAUTHENTICATED, 'authorization must be "Bearer TOKEN", once')
        return self._directory.of_token(text[len(_SCHEME) :].strip())

    def _wrap(self, handler: Handler, rule: Rule) -> Handler:
        answer = self._stream if handler.response_streaming else self._unary
        return with_behaviour(handler, answer(behaviour_of(handler), rule))

    def _unary(self, behaviour: Any, rule: Rule) -> Any:
        async def answer(request: Any, context: Any) -> Any:
            return await behaviour(self._let_in(request, context, rule), context)

        return answer

    def _stream(self, behaviour: Any, rule: Rule) -> Any:
        async def answer(request: Any, context: Any) -> AsyncIterator[Any]:
            async for response in behaviour(self._let_in(request, context, rule), context):
                self._check(request, context, rule)
                yield response

        return answer

    def _let_in(self, request: Any, context: Any, rule: Rule) -> Any:
        """The request, or the stream of requests, of a caller that may make it; who calls is known from here on."""
        self._check(request, context, rule)
        return self._looked_at(request, context, rule) if hasattr(request, "__aiter__") else request

    async def _looked_at(self, messages: AsyncIterator[Any], context: Any, rule: Rule) -> AsyncIterator[Any]:
        """The stream of requests, for as long as its caller may send it.

        The first message, which names the laboratory, is checked when the call takes it: that has a limit of its own.
        """
        first = True
        async for message in messages:
            principal = self._check(messages, context, rule)
            if first:
                rule.check_laboratory(principal, message)
                first = False
            yield message

    def _check(self, request: Any, context: Any, rule: Rule) -> Principal:
        """Who calls; raises Unauthenticated and PermissionDenied. A refused call is known to be theirs, too."""
        principal = self._principal(context)
        become(principal)
        rule.check_role(principal)
        if not hasattr(request, "__aiter__"):
            rule.check_laboratory(principal, request)
        return principal
