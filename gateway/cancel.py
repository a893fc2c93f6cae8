"""Cancelling a batch by request."""

from __future__ import annotations

from collections.abc import Callable

from gateway.etag import check_etag
from gateway.names import BatchName
from gateway.stop import Stopper
from gateway.views import BatchView, Views
from gramserve.errors import PreconditionFailed, Reason
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action


class Canceller:
    """Cancels batches; `on_change` is told which batch to look after."""

    def __init__(
        self, views: Views, stopper: Stopper, *, on_change: Callable[[BatchName], None], audit: AuditLog
    ) -> None:
        self._views = views
        self._stopper = stopper
        self._on_change = on_change
        self._audit = audit

    async def cancel(self, name: BatchName, etag: str = "") -> BatchView:
        """Ends what waits and lets finish what runs; may be repeated.

        Raises PreconditionFailed (BATCH_TERMINAL), Conflict (STALE_ETAG), NotFound. When Redis fails on the way, the
        cause is in the store already and the reconciler stops the batch.
        """
        record = await self._views.record(name)
        before = await self._views.view(record)
        if before.state.terminal:
            raise PreconditionFailed(Reason.BATCH_TERMINAL, f"the batch has ended as {before.state}")
        check_etag(etag, before.etag)
        await self._audit.record(Action.BATCH_CANCEL, name.resource, artifact=record.model_digest)
        try:
            await self._stopper.stop(record, before.round, "CANCELLED")
        finally:
            self._on_change(name)
        return await self._views.view(record)
