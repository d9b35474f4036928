"""A server on loopback that stands before another one and loses what it is told to lose."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

_TIMEOUT_S = 20


class Lossy:
    """Passes connections on to `port`. The answer to a request for whose first bytes `loses` is true goes to nobody."""

    def __init__(self, port: int, loses: Callable[[bytes], bool]) -> None:
        self._port = port
        self._loses = loses
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.settimeout(_TIMEOUT_S)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.lost = 0

    def serve(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed at the end
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _connection(self, client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            client,
            socket.create_connection(("127.0.0.1", self._port), timeout=_TIMEOUT_S) as server,
        ):
            client.settimeout(_TIMEOUT_S)
            answers = threading.Thread(target=self._answers, args=(client, server), daemon=True)
            self._drop = False
            answers.start()
            while data := client.recv(1 << 16):
                if self._loses(data):
                    self._drop = True
                    self.lost += 1
                server.sendall(data)
            answers.join(_TIMEOUT_S)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if self._drop:
                    break
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def lossy(port: int, loses: Callable[[bytes], bool]) -> Iterator[Lossy]:
    """One that runs while the context lasts."""
    proxy = Lossy(port, loses)
    threading.Thread(target=proxy.serve, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.close()
