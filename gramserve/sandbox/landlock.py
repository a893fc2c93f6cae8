"""Folders that this process may change; all others become read-only for it (landlock(7)), and stay so."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every processor
_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE, _REMOVE_FOLDER, _REMOVE_FILE = 1 << 1, 1 << 4, 1 << 5
_MAKE_CHAR, _MAKE_FOLDER, _MAKE_FILE, _MAKE_SOCKET, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_LINK = (
    1 << bit for bit in range(6, 13)
)
_MOVE, _TRUNCATE = 1 << 13, 1 << 14  # since versions 2 and 3
_DEVICES = _MAKE_CHAR | _MAKE_BLOCK | _MAKE_SOCKET
_FIRST = _WRITE | _REMOVE_FOLDER | _REMOVE_FILE | _MAKE_FOLDER | _MAKE_FILE | _MAKE_FIFO | _MAKE_LINK | _DEVICES


def available() -> bool:
    """Whether this kernel has landlock and it is switched on."""
    return _version(_libc()) > 0


def write_only_below(folders: Iterable[Path]) -> None:
    """From now on this thread, and those that it starts, change nothing outside `folders` and /dev/null.

    Call it before there are other threads. No device or socket is made anywhere. Folders that do not exist are left
    out. Raises OSError when the kernel has no landlock.
    """
    libc = _libc()
    version = _version(libc)
    handled = _FIRST | (_MOVE if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    rules = libc.syscall(_CREATE, ctypes.c_char_p(struct.pack("=Q", handled)), ctypes.c_size_t(8), 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    try:
        for place in (*folders, Path(os.devnull)):
            _allow(libc, rules, place, handled & ~_DEVICES)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(_RESTRICT, rules, 0):
            raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    finally:
        os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, place: Path, rights: int) -> None:
    try:
        handle = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= _WRITE | _TRUNCATE
        rule = ctypes.c_char_p(struct.pack("=Qi", rights, handle))
        if libc.syscall(_ADD, rules, _PATH_BENEATH, rule, 0):
            raise OSError(ctypes.get_errno(), "landlock_add_rule")
    finally:
        os.close(handle)


def _version(libc: ctypes.CDLL) -> int:
    """Of the kernel's landlock; below 1 when there is none."""
    return int(libc.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
