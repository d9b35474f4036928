"""A worker without torch: the same socket protocol, and it does what a request's body says.

Its arguments are those of the real one. `handler` says how it loads: `good`, `fails`, `oom`, `slow`, `dies`, or `unless FILE`, which
fails while there is such a file.
"""

import os
import socket
import struct
import sys
import time
from pathlib import Path

END = struct.pack("!i", -1)


def sized(value):
    return struct.pack("!i", len(value)) + value


class Reader:
    def __init__(self, connection):
        self.file = connection.makefile("rb")

    def exactly(self, count):
        data = self.file.read(count)
        if len(data) < count:
            sys.exit(0)
        return data

    def integer(self):
        return struct.unpack("!i", self.exactly(4))[0]

    def value(self):
        return self.exactly(self.integer())

    def listed(self, *fields):
        """The entries of a list, each with these fields after the first value."""
        while (length := self.integer()) != -1:
            yield (self.exactly(length), *(field() for field in fields))

    def load(self):
        return self.value(), self.value(), self.integer(), self.value(), self.integer(), self.value(), self.exactly(1)

    def batch(self):
        def headers():
            return dict(self.listed(self.value))

        def inputs():
            return [entry[2] for entry in self.listed(self.value, self.value)]

        return list(self.listed(headers, inputs))


def head(code, message):
    return struct.pack("!i", code) + sized(message)


def reply(request_id, body, status=200, phrase=b"", content_type=b"", headers=()):
    listed = b"".join(sized(name) + sized(value) for name, value in headers)
    return (
        sized(request_id)
        + sized(content_type)
        + struct.pack("!i", status)
        + sized(phrase)
        + struct.pack("!i", len(headers))
        + listed
        + sized(body)
    )


def answer(connection, jobs):
    """Every job's own command; the first that concerns the whole batch decides."""
    batch = b"%d" % len(jobs)
    for request_id, _, inputs in jobs:
        word, _, rest = (inputs[0] if inputs else b"describe").partition(b" ")
        if word == b"kill":
            os.kill(os.getpid(), int(rest))
        if word == b"hang":
            time.sleep(600)
        if word == b"sleep":
            time.sleep(float(rest))
        if word == b"fail":
            code, _, printed = rest.partition(b" ")
            os.write(1, printed.replace(b"|", b"\n") + b"\n" if printed else b"")
            failed = b"".join(reply(job[0], b"error", int(code)) for job in jobs)
            connection.sendall(head(int(code), b"as told") + failed + END)
            return
        if word == b"wrong":
            connection.sendall(head(200, b"") + reply(b"another", b"") + END)
            return
        if word == b"large":
            connection.sendall(head(200, b"") + reply(request_id, bytes(int(rest))) + END)
            return
        if word == b"stream":
            for part in range(int(rest)):
                parts = [reply(job[0], b"part %d" % part, headers=[(b"ts_stream_next", b"true")]) for job in jobs]
                connection.sendall(head(200, b"") + b"".join(parts) + END)
            if inputs[-1] == b"and die":
                os._exit(3)
    connection.sendall(head(200, b"") + b"".join(own_reply(job, batch) for job in jobs) + END)


def own_reply(job, batch):
    request_id, headers, inputs = job
    headers_told = [(b"batch", batch), (b"pid", b"%d" % os.getpid())]
    if inputs and inputs[0].startswith(b"stream"):
        headers_told.append((b"ts_stream_next", b"false"))
    if not inputs:
        return reply(request_id, b'{"described": "%s"}' % headers[b"describe"], headers=headers_told)
    return reply(request_id, b"".join(inputs), headers=headers_told)


def load(connection, handler):
    word, _, rest = handler.decode().partition(" ")
    if word == "dies" or (word == "unless" and Path(rest).exists()):
        os._exit(7)
    if word == "slow":
        time.sleep(600)
    code = {"fails": 500, "oom": 507}.get(word, 200)
    connection.sendall(head(code, b"loaded") + END)
    if code != 200:
        sys.exit(1)


def main():
    path = sys.argv[sys.argv.index("--sock-name") + 1]
    Path(path).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(1)
    os.write(1, b"Torch worker started.\n")
    connection, _ = listening.accept()
    reader = Reader(connection)
    while True:
        if reader.exactly(1) == b"L":
            load(connection, reader.load()[3])
        else:
            answer(connection, reader.batch())


main()
