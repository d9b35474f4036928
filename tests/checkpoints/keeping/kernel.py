"""What a process asks the kernel for, to live with a small disk, without links, locks, rights or a disk that flushes.

Everything holds for the calling process (a child made for it) and what it starts, ends with it, and changes nothing for others.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
"""Classic BPF (linux/bpf_common.h): load a word, jump if it equals, return."""
_ALLOW, _ERRNO, _NUMBER_AT, _ARCH_AT = 0x7FFF0000, 0x00050000, 0, 4
"""linux/seccomp.h: what a filter returns, and where `struct seccomp_data` has the call's number and the architecture."""
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CALLS = {
    "x86_64": {"flock": 73, "fsync": 74, "fdatasync": 75, "link": 86, "symlink": 88, "linkat": 265, "symlinkat": 266},
    "aarch64": {"flock": 32, "fsync": 82, "fdatasync": 83, "linkat": 37, "symlinkat": 36},
}
NO_LINKS = {"symlink": errno.EPERM, "symlinkat": errno.EPERM, "link": errno.EPERM, "linkat": errno.EPERM}
NO_LOCKS = {"flock": errno.ENOLCK}
NO_FLUSH = {"fsync": errno.EIO, "fdatasync": errno.EIO}
_CAPABILITY_VERSION = 0x20080522
_OVERRIDES = (1, 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: with them, root passes every permission."""

_libc = ctypes.CDLL(None, use_errno=True)


def mount_small_disk(place: Path, size_bytes: int, *, files: int | None = None) -> None:
    """Mounts an empty tmpfs that only this process sees; `files` limits how many it holds.

    Raises:
        OSError: this process may not (no root, no user namespaces).
    """
    _own_mounts()
    more = f",nr_inodes={files}" if files else ""
    _mount("tmpfs", place, "tmpfs", 0, f"size={size_bytes},mode=700{more}")


def make_read_only(place: Path) -> None:
    """Whatever this process opens there from now on is read-only, as on a disk that a kernel gave up."""
    _mount(str(place), place, None, _MS_BIND, None)
    _mount("none", place, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY, None)


def refuse(calls: dict[str, int]) -> None:
    """From now on these system calls end with these error numbers: a seccomp filter, which can't be taken away again.

    Raises:
        OSError: the kernel, or the architecture, has no such filters.
    """
    machine = platform.machine()
    if machine not in _CALLS:
        raise OSError(errno.ENOSYS, f"no numbers of system calls are known for {machine}")
    numbers = {_CALLS[machine][name]: error for name, error in calls.items() if name in _CALLS[machine]}
    program = b"".join(_filter(_AUDIT_ARCH[machine], numbers))
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions (8 bytes each), and where they lie.
    prog = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)))
    _must(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _must(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, prog, 0, 0))


def obey_permissions() -> None:
    """Even root is refused from now on what a directory's permissions do not allow (its overriding capabilities are dropped)."""
    header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    data = ctypes.create_string_buffer(24)
    _must(_libc.capget(header, data))
    words = list(struct.unpack("6I", data.raw))  # effective, permitted, inheritable: twice, 32 capabilities each
    for word in range(3):
        for capability in _OVERRIDES:
            words[word] &= ~(1 << capability)
    _must(_libc.capset(header, struct.pack("6I", *words)))


def _own_mounts() -> None:
    if os.getuid() == 0:
        _must(_libc.unshare(_CLONE_NEWNS))
    else:
        user, group = os.getuid(), os.getgid()
        _must(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount("none", Path("/"), None, _MS_REC | _MS_PRIVATE, None)


def _mount(source: str, target: Path, kind: str | None, flags: int, data: str | None) -> None:
    kind_bytes, data_bytes = kind and kind.encode(), data and data.encode()
    _must(_libc.mount(source.encode(), bytes(target), kind_bytes, ctypes.c_ulong(flags), data_bytes))


def _filter(arch: int, numbers: dict[int, int]) -> Iterable[bytes]:
    """The instructions: on this architecture, the calls end with their errors, all others go on."""
    yield _instruction(_LOAD, 0, 0, _ARCH_AT)
    yield _instruction(_JUMP_IF_EQUAL, 1, 0, arch)
    yield _instruction(_RETURN, 0, 0, _ALLOW)
    yield _instruction(_LOAD, 0, 0, _NUMBER_AT)
    for number, error in numbers.items():
        yield _instruction(_JUMP_IF_EQUAL, 0, 1, number)
        yield _instruction(_RETURN, 0, 0, _ERRNO | error)
    yield _instruction(_RETURN, 0, 0, _ALLOW)


def _instruction(code: int, if_true: int, if_false: int, value: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _must(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
