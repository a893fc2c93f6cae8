"""System calls that a process with hostile input has no use for, by their numbers on each kind of processor."""

from __future__ import annotations

import platform
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Numbers:
    """A processor: its AUDIT_ARCH, and the number of each call that is named here and that it has."""

    audit_arch: int
    calls: dict[str, int]


X86_64 = Numbers(
    0xC000003E,
    {
        "socket": 41, "connect": 42, "bind": 49, "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "kill": 62,
        "ptrace": 101, "rt_sigqueueinfo": 129, "pivot_root": 155, "chroot": 161, "mount": 165, "umount2": 166,
        "init_module": 175, "tkill": 200, "tgkill": 234, "kexec_load": 246, "add_key": 248, "request_key": 249,
        "keyctl": 250, "unshare": 272, "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "prlimit64": 302,
        "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "finit_module": 313,
        "seccomp": 317, "bpf": 321, "execveat": 322, "userfaultfd": 323, "pidfd_send_signal": 424,
        "io_uring_setup": 425, "clone3": 435, "pidfd_getfd": 438,
    },
)  # fmt: skip
AARCH64 = Numbers(
    0xC00000B7,
    {
        "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "kexec_load": 104, "init_module": 105,
        "ptrace": 117, "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "socket": 198, "bind": 200,
        "connect": 203, "add_key": 217, "request_key": 218, "keyctl": 219, "clone": 220, "execve": 221,
        "rt_tgsigqueueinfo": 240, "perf_event_open": 241, "prlimit64": 261, "open_by_handle_at": 265, "setns": 268,
        "process_vm_readv": 270, "process_vm_writev": 271, "finit_module": 273, "seccomp": 277, "bpf": 280,
        "execveat": 281, "userfaultfd": 282, "unshare": 97, "pidfd_send_signal": 424, "io_uring_setup": 425,
        "clone3": 435, "pidfd_getfd": 438,
    },
)  # fmt: skip
_PROCESSORS = {"x86_64": X86_64, "aarch64": AARCH64}

NEVER = (
    "execve", "execveat", "fork", "vfork",  # new programs and processes
    "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd",  # other processes
    "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal",
    "mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "open_by_handle_at",  # other views of the system
    "init_module", "finit_module", "kexec_load", "bpf", "perf_event_open", "userfaultfd",  # the kernel itself
    "add_key", "request_key", "keyctl",
)  # fmt: skip
"""Refused with EPERM."""

ABSENT = ("io_uring_setup", "clone3")
"""Refused with ENOSYS, as on older kernels: libraries then use calls whose arguments a filter can see."""

NETWORK = ("socket", "connect", "bind")
"""Refused with EPERM; socketpair stays, it leads nowhere."""

OF_ITSELF = ("kill", "tgkill", "prlimit64")
"""Allowed with the process itself as the first argument: other processes are not signalled or limited."""


def numbers() -> Numbers | None:
    """The calls of this processor; None for one that is not known here."""
    return _PROCESSORS.get(platform.machine())
