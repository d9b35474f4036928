"""What this machine, not the server, has too little of for a load: descriptors and ports for its connections."""

import errno
import os
import resource

from bench.errors import ProcessFailed

_WHAT_TO_DO = {
    errno.EMFILE: "raise the limit (ulimit -n), spread the load over more processes, or ask for fewer connections",
    errno.ENFILE: "raise the machine's limit (sysctl fs.file-max), or ask for fewer connections",
    errno.EADDRNOTAVAIL: "no local port is left: ask for fewer connections or a lower rate, or widen "
    "net.ipv4.ip_local_port_range; a server that closes after each answer uses up a port for a minute every time",
}


def require_not_exhausted(code: int | None, opened: int) -> None:
    """Raises ProcessFailed where an error number tells that no more connections can be opened from here; `opened` are open."""
    what_to_do = _WHAT_TO_DO.get(code or 0)
    if code is None or what_to_do is None:
        return
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = f" (ulimit -n is {most:,})" if code == errno.EMFILE else ""
    raise ProcessFailed(
        f"the load generator, with {opened:,} connections open, cannot open another: {os.strerror(code)}{limit}; {what_to_do}"
    )
