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
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from gramserve.errors import InvalidInput, NotFound, Reason, SlideFailed
from gramserve.images.references import NotLocal, local_path, under
from gramserve.store.layout import slide_path
from gramserve.store.records import ImageRecord

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LABORATORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class ByteSource(Protocol):
    """Where uploaded bytes lie; `gramserve.store.objects.ObjectStore` is one."""

    def get_sync(self, path: str) -> bytes:
        """The object at `path`; raises NotFound when there is none, Unavailable when the store cannot be reached."""
        ...


class ReferenceOpener:
    """Opens the images of slides. It keeps no state between calls and works without an event loop.

    `allowed_roots` are folders below which files may be read; they must be absolute. Nothing is allowed by default.
    """

    def __init__(self, objects: ByteSource, *, allowed_roots: Sequence[Path] = (), max_bytes: int) -> None:
        self._objects = objects
        self._max_bytes = max_bytes
        for root in allowed_roots:
            if not root.is_absolute():
                raise ValueError("allowed roots must be absolute paths")
        # A root may itself be a link, as volumes often are: both of its names count.
        self._named_roots = {os.path.normpath(root) for root in allowed_roots}
        self._real_roots = {os.path.realpath(root) for root in allowed_roots}

    def read(self, laboratory: str, image: ImageRecord) -> bytes:
        """The encoded bytes of one image of a slide of `laboratory`.

        Raises SlideFailed: REFERENCE_DENIED, REFERENCE_NOT_FOUND, IMAGE_TOO_LARGE, CHECKSUM_MISMATCH (bytes do not hash
        to the digest given). Raises Unavailable when the store cannot be reached.
        """
        if image.sha256:
            data, expected = (
                self._stored(laboratory, image.sha256),
                {image.sha256, image.content_sha256 or image.sha256},
            )
        else:
            try:
                data, expected = self._file(image.uri, self._max_bytes), {image.content_sha256} - {""}
            except _Refused as refused:
                raise SlideFailed(refused.reason, refused.message, retryable=refused.retryable) from None
        if expected and {hashlib.sha256(data).hexdigest()} != expected:
            raise SlideFailed(
                Reason.CHECKSUM_MISMATCH, "The image does not have the SHA-256 that was given for it; send it again."
            )
        return data

    def read_manifest(self, uri: str, *, max_bytes: int) -> bytes:
        """The bytes of a batch manifest file, under the same roots as images.

        Raises InvalidInput (REFERENCE_DENIED, MESSAGE_TOO_LARGE) or NotFound (REFERENCE_NOT_FOUND).
        """
        try:
            return self._file(uri, max_bytes)
        except _Refused as refused:
            if refused.reason is Reason.REFERENCE_NOT_FOUND:
                raise NotFound(refused.reason, refused.message) from None
            reason = Reason.MESSAGE_TOO_LARGE if refused.reason is Reason.IMAGE_TOO_LARGE else refused.reason
            raise InvalidInput(reason, refused.message) from None

    def _stored(self, laboratory: str, sha256: str) -> bytes:
        if not _SHA256.fullmatch(sha256) or not _LABORATORY.fullmatch(laboratory):
            raise SlideFailed(Reason.REFERENCE_DENIED, "The image is not named by a SHA-256 in lower-case hex.")
        try:
            data = self._objects.get_sync(slide_path(laboratory, sha256))
        except NotFound:
            raise SlideFailed(
                Reason.REFERENCE_NOT_FOUND,
                "No image with this SHA-256 was uploaded by this laboratory; upload it first.",
            ) from None
        if len(data) > self._max_bytes:
            raise SlideFailed(Reason.IMAGE_TOO_LARGE, _too_large(self._max_bytes))
        return data

    def _file(self, uri: str, max_bytes: int) -> bytes:
        try:
            path = local_path(uri)
        except NotLocal as refused:
            raise _denied(str(refused)) from None
        # Judged by its name first: a path outside the roots is denied alike whether or not it exists.
        if not under(os.path.normpath(path), self._named_roots | self._real_roots):
            raise _denied("lies outside the folders that this server may read")
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise _unopened(error) from None
        try:
            return self._read_regular(handle, max_bytes)
        except OSError as error:
            raise _unopened(error) from None
        finally:
            os.close(handle)

    def _read_regular(self, handle: int, max_bytes: int) -> bytes:
        """Reads what `handle` (O_PATH) stands for, whatever happens to its name meanwhile.

        O_PATH opens nothing: no FIFO waits and no device acts. What was found is judged by where it really lies, after
        all links, and only then that same file is opened for reading through its handle.
        """
        itself = Path(f"/proc/self/fd/{handle}")
        if not under(str(itself.readlink()), self._real_roots):
            raise _denied("leads outside the folders that this server may read")
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _denied("is not a regular file")
        if status.st_size > max_bytes:
            raise _Refused(Reason.IMAGE_TOO_LARGE, _too_large(max_bytes))
        with itself.open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:  # it grew
            raise _Refused(Reason.IMAGE_TOO_LARGE, _too_large(max_bytes))
        return data


class _Refused(Exception):
    """A path that is not read, before it is known whether a slide or a request fails for it."""

    def __init__(self, reason: Reason, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.reason, self.message, self.retryable = reason, message, retryable


def _denied(what: str) -> _Refused:
    return _Refused(Reason.REFERENCE_DENIED, f"The reference {what}.")


def _too_large(max_bytes: int) -> str:
    return f"The file is larger than the limit of {max_bytes} bytes."


def _unopened(error: OSError) -> _Refused:
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return _Refused(Reason.REFERENCE_NOT_FOUND, "There is no file at the reference.")
    if error.errno in {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}:
        return _denied("may not be read by this server")
    # A share that is away for a moment: another attempt can succeed.
    return _Refused(Reason.REFERENCE_NOT_FOUND, "The file at the reference cannot be read now.", retryable=True)
