"""A filter of system calls for this process (seccomp(2)), which cannot be taken off again."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

from gramserve.sandbox.syscalls import ABSENT, NETWORK, NEVER, OF_ITSELF, X86_64, Numbers, numbers

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _GET_ACTION_AVAIL = 1, 2
_TSYNC = 1
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
# Classic BPF: load a word of struct seccomp_data, compare, return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # the lower half of the argument, on little-endian processors
_X32 = 0x40000000
_CLONE_THREAD = 0x00010000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def available() -> bool:
    """Whether this kernel filters, and this processor is known."""
    known = numbers()
    if known is None:
        return False
    action = ctypes.c_uint32(_ERRNO)
    return bool(_libc().syscall(known.calls["seccomp"], _GET_ACTION_AVAIL, 0, ctypes.byref(action)) == 0)


def filter_calls(*, signal_group: bool = False) -> None:
    """From now on, in all threads: no new program, no other process touched, and no socket.

    Threads can still be started. Signals go to this process only, and to its process group with `signal_group`.
    Raises OSError when the kernel does not filter.
    """
    known = numbers()
    if known is None:
        raise OSError(errno.ENOSYS, "no filter for this processor")
    libc = _libc()
    instructions = program(known, signal_group=signal_group, pid=os.getpid())
    filled = _Program(len(instructions) // 8, instructions)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if libc.syscall(known.calls["seccomp"], _SET_MODE_FILTER, _TSYNC, ctypes.byref(filled)):
        raise OSError(ctypes.get_errno(), "seccomp")


def program(known: Numbers, *, signal_group: bool, pid: int) -> bytes:
    """The filter as instructions of eight bytes each, for the process `pid`."""
    refused = _refuse(errno.EPERM)
    steps = [_step(_LOAD, _ARCH), _step(_EQUAL, known.audit_arch, 1, 0), refused, _step(_LOAD, _NUMBER)]
    if known is X86_64:  # the same calls under other numbers
        steps += [_step(_AT_LEAST, _X32, 0, 1), refused]
    steps += _deny(known, NEVER + NETWORK, errno.EPERM)
    steps += _deny(known, ABSENT, errno.ENOSYS)
    # Threads, but no processes.
    steps += [_step(_EQUAL, known.calls["clone"], 0, 4), _step(_LOAD, _FIRST_ARGUMENT)]
    steps += [_step(_ANY_BIT, _CLONE_THREAD, 1, 0), refused, _step(_RETURN, _ALLOW)]
    for name in OF_ITSELF:
        # 0 is this process for prlimit64, and its whole group for kill.
        allowed = [pid, 0] if name == "prlimit64" or (name == "kill" and signal_group) else [pid]
        judge = [_step(_LOAD, _FIRST_ARGUMENT)]
        judge += [_step(_EQUAL, one, len(allowed) - position, 0) for position, one in enumerate(allowed)]
        judge += [refused, _step(_RETURN, _ALLOW)]
        steps += [_step(_EQUAL, known.calls[name], 0, len(judge)), *judge]
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


def _deny(known: Numbers, names: Iterable[str], error: int) -> list[bytes]:
    found = (known.calls[name] for name in names if name in known.calls)
    return [step for number in found for step in (_step(_EQUAL, number, 0, 1), _refuse(error))]


def _refuse(error: int) -> bytes:
    return _step(_RETURN, _ERRNO | error)


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
