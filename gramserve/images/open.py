"""The only opener of references: turns an ImageRecord into bytes, and refuses whatever is not explicitly allowed.

A reference is either the digest of an uploaded image, which is looked up under the laboratory that names it and nowhere
else, or the path of a file under one of the roots that the operator allowed; without roots every path is refused.
Messages never repeat a reference: file names can hold a patient's name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from gramserve.errors import InvalidInput, NotFound, Reason, SlideFailed
from gramserve.images.references import NotLocal, local_path, under
from gramserve.images.roots import Roots
from gramserve.images.slidefile import Identity, SlideFile, may_be_slide
from gramserve.store.layout import slide_path
from gramserve.store.records import ImageRecord

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LABORATORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class ByteSource(Protocol):
    """Where uploaded bytes lie; `gramserve.store.objects.ObjectStore` is one."""

    def get_sync(self, path: str) -> bytes:
        """The object at `path`; raises NotFound when there is none, Unavailable when the store cannot be reached."""
        ...

    def open_sync(self, path: str) -> int:
        """A handle of a file with the bytes of the object at `path`, to be closed by the caller; raises as above."""
        ...


class ReferenceOpener:
    """Opens the images of slides. It keeps no state between calls and works without an event loop.

    `allowed_roots` are folders below which files may be read (`gramserve.images.roots`); they must be absolute. Nothing
    is allowed by default.
    `max_bytes` bounds what becomes bytes in memory, `max_slide_bytes` what `fetch` gives as an open file.
    """

    def __init__(
        self,
        objects: ByteSource,
        *,
        allowed_roots: Sequence[Path] = (),
        max_bytes: int,
        max_slide_bytes: int = 0,
    ) -> None:
        self._objects = objects
        self._max_bytes = max_bytes
        self._max_slide_bytes = max_slide_bytes
        self._roots = Roots(allowed_roots)

    def fetch(self, laboratory: str, image: ImageRecord, *, verified: Collection[Identity] = ()) -> bytes | SlideFile:
        """The encoded bytes of one image of a slide of `laboratory`.

        What could be a whole slide (TIFF, DICOM) is an open file of up to `max_slide_bytes` instead, which the caller
        closes. Its digest is computed in chunks, unless it is one of `verified`.
        Raises SlideFailed: REFERENCE_DENIED, REFERENCE_NOT_FOUND, IMAGE_TOO_LARGE, CHECKSUM_MISMATCH (bytes do not hash
        to the digest given). Raises Unavailable when the store cannot be reached.
        """
        found = self._fetch(laboratory, image, verified, slides=True)
        assert found is not None
        return found

    def read_field(self, laboratory: str, image: ImageRecord) -> bytes | None:
        """Like `fetch`, but None for what could be a whole slide; no more than its head is read then."""
        found = self._fetch(laboratory, image, (), slides=False)
        assert not isinstance(found, SlideFile)
        return found

    def _fetch(
        self, laboratory: str, image: ImageRecord, verified: Collection[Identity], *, slides: bool
    ) -> bytes | SlideFile | None:
        """See `fetch`; None for what could be a whole slide unless `slides` are wanted."""
        file = self._open(laboratory, image)
        kept = False
        try:
            expected = {image.sha256, image.content_sha256} - {""}
            slide = may_be_slide(file.head())
            if slide and not slides:
                return None
            most = max(self._max_slide_bytes, self._max_bytes) if slide else self._max_bytes
            if file.size > most:
                raise SlideFailed(Reason.IMAGE_TOO_LARGE, _too_large(most))
            found: bytes | SlideFile = file if slide else file.read(most + 1)
            if isinstance(found, bytes) and len(found) > most:  # it grew
                raise SlideFailed(Reason.IMAGE_TOO_LARGE, _too_large(most))
            if expected and not (slide and file.identity in verified):
                digest = hashlib.sha256(found).hexdigest() if isinstance(found, bytes) else file.sha256()
                if {digest} != expected:
                    raise _mismatch()
            kept = slide
        except OSError as error:
            unread = _unopened(error)
            raise SlideFailed(unread.reason, unread.message, retryable=True) from None
        finally:
            if not kept:
                file.close()
        return found

    def _open(self, laboratory: str, image: ImageRecord) -> SlideFile:
        try:
            return SlideFile(
                self._open_stored(laboratory, image.sha256) if image.sha256 else self._open_file(image.uri, laboratory)
            )
        except _Refused as refused:
            raise SlideFailed(refused.reason, refused.message, retryable=refused.retryable) from None

    def read_manifest(self, uri: str, *, max_bytes: int, laboratory: str = "") -> bytes:
        """The bytes of a batch manifest file, under the same roots as images of `laboratory`.

        Raises InvalidInput (REFERENCE_DENIED, MESSAGE_TOO_LARGE) or NotFound (REFERENCE_NOT_FOUND).
        """
        try:
            return self._file(uri, max_bytes, laboratory)
        except _Refused as refused:
            if refused.reason is Reason.REFERENCE_NOT_FOUND:
                raise NotFound(refused.reason, refused.message) from None
            reason = Reason.MESSAGE_TOO_LARGE if refused.reason is Reason.IMAGE_TOO_LARGE else refused.reason
            raise InvalidInput(reason, refused.message) from None

    def _open_stored(self, laboratory: str, sha256: str) -> int:
        if not _SHA256.fullmatch(sha256) or not _LABORATORY.fullmatch(laboratory):
            raise SlideFailed(Reason.REFERENCE_DENIED, "The image is not named by a SHA-256 in lower-case hex.")
        try:
            return self._objects.open_sync(slide_path(laboratory, sha256))
        except NotFound:
            raise SlideFailed(
                Reason.REFERENCE_NOT_FOUND,
                "No image with this SHA-256 was uploaded by this laboratory; upload it first.",
            ) from None

    def _file(self, uri: str, max_bytes: int, laboratory: str) -> bytes:
        file = SlideFile(self._open_file(uri, laboratory))
        try:
            if file.size > max_bytes:
                raise _Refused(Reason.IMAGE_TOO_LARGE, _too_large(max_bytes))
            data = file.read(max_bytes + 1)
        except OSError as error:
            raise _unopened(error) from None
        finally:
            file.close()
        if len(data) > max_bytes:  # it grew
            raise _Refused(Reason.IMAGE_TOO_LARGE, _too_large(max_bytes))
        return data

    def _open_file(self, uri: str, laboratory: str) -> int:
        try:
            path = local_path(uri)
        except NotLocal as refused:
            raise _denied(str(refused)) from None
        # Judged by its name first: a path outside the roots is denied alike whether or not it exists.
        if not under(os.path.normpath(path), self._roots.named(laboratory)):
            raise _denied("lies outside the folders that this server may read")
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise _unopened(error) from None
        try:
            return self._open_regular(handle, self._roots.real(laboratory))
        except OSError as error:
            raise _unopened(error) from None
        finally:
            os.close(handle)

    def _open_regular(self, handle: int, roots: set[str]) -> int:
        """Opens what `handle` (O_PATH) stands for, whatever happens to its name meanwhile.

        O_PATH opens nothing: no FIFO waits and no device acts. What was found is judged by where it really lies, after
        all links, and only then that same file is opened for reading through its handle.
        """
        itself = Path(f"/proc/self/fd/{handle}")
        if not under(str(itself.readlink()), roots):
            raise _denied("leads outside the folders that this server may read")
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise _denied("is not a regular file")
        return os.open(itself, os.O_RDONLY | os.O_CLOEXEC)


class _Refused(Exception):
    """A path that is not read, before it is known whether a slide or a request fails for it."""

    def __init__(self, reason: Reason, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.reason, self.message, self.retryable = reason, message, retryable


def _denied(what: str) -> _Refused:
    return _Refused(Reason.REFERENCE_DENIED, f"The reference {what}.")


def _mismatch() -> SlideFailed:
    return SlideFailed(
        Reason.CHECKSUM_MISMATCH, "The image does not have the SHA-256 that was given for it; send it again."
    )


def _too_large(max_bytes: int) -> str:
    return f"The file is larger than the limit of {max_bytes} bytes."


def _unopened(error: OSError) -> _Refused:
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return _Refused(Reason.REFERENCE_NOT_FOUND, "There is no file at the reference.")
    if error.errno in {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}:
        return _denied("may not be read by this server")
    # A share that is away for a moment: another attempt can succeed.
    return _Refused(Reason.REFERENCE_NOT_FOUND, "The file at the reference cannot be read now.", retryable=True)
