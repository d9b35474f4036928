"""TorchServe as a container's first process: `torchserve --start --foreground`, ended by SIGTERM as `torchserve --stop` ends it.

TorchServe's own command ignores SIGTERM where it is the first process, as any that does not ask for it, and where it is not, it
leaves its server behind: what was asked and not answered yet would be lost.
"""

import signal
import subprocess
import sys


def main(words: list[str]) -> int:
    """Runs TorchServe with these words until it ends, by itself or by a signal; its exit code."""
    server = subprocess.Popen(["torchserve", "--start", "--foreground", *words])  # noqa: S607
    stops: list[subprocess.Popen[bytes]] = []

    def stop(_number: int, _frame: object) -> None:
        # It finds the server by its pid file, and waits for its end.
        stops.append(subprocess.Popen(["torchserve", "--stop", "--foreground"]))  # noqa: S607

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    code = server.wait()
    for process in stops:
        process.wait()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
