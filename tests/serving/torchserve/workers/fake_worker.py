"""A worker without torch: the same socket protocol, and it does what a request's body says.

Its arguments are those of the real one. `handler` says how it loads: `good`, `fails`, `oom`, `slow`, `dies`, or `unless FILE`,
which dies while there is such a file.
"""
# ruff: noqa: ARG001 - every command has the same parameters

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


def reply(request_id, body, headers=(), status=200):
    listed = b"".join(sized(name) + sized(value) for name, value in headers)
    no_type, no_phrase = sized(b""), sized(b"")
    head = sized(request_id) + no_type + struct.pack("!i", status) + no_phrase + struct.pack("!i", len(headers))
    return head + listed + sized(body)


def answer(connection, jobs):
    """The first job that has a command decides for the whole batch; then each has its own reply."""
    for _, _, inputs in jobs:
        word, _, rest = (inputs[0] if inputs else b"").partition(b" ")
        if word in COMMANDS:
            COMMANDS[word](connection, jobs, rest)
            if word in INSTEAD:
                return
            break
    batch = b"%d" % len(jobs)
    connection.sendall(head(200, b"") + b"".join(own_reply(job, batch) for job in jobs) + END)


def kill(connection, jobs, rest):
    os.kill(os.getpid(), int(rest))


def sleep(connection, jobs, rest):
    time.sleep(float(rest))


def hang(connection, jobs, rest):
    time.sleep(600)


def fail(connection, jobs, rest):
    code, _, printed = rest.partition(b" ")
    os.write(1, printed.replace(b"|", b"\n") + b"\n" if printed else b"")
    replies = [reply(request_id, b"error", status=int(code)) for request_id, _, _ in jobs]
    connection.sendall(head(int(code), b"as told") + b"".join(replies) + END)


def wrong(connection, jobs, rest):
    connection.sendall(head(200, b"") + reply(b"another", b"") + END)


def twice(connection, jobs, rest):
    connection.sendall(head(200, b"") + b"".join(own_reply(job, b"1") for job in jobs) + END)


def large(connection, jobs, rest):
    connection.sendall(head(200, b"") + reply(jobs[0][0], bytes(int(rest))) + END)


def stream(connection, jobs, rest):
    for part in range(int(rest)):
        parts = [reply(job[0], b"part %d" % part, [(b"ts_stream_next", b"true")]) for job in jobs]
        connection.sendall(head(200, b"") + b"".join(parts) + END)
    if jobs[0][2][-1] == b"and die":
        os._exit(3)


COMMANDS = {
    b"kill": kill,
    b"sleep": sleep,
    b"hang": hang,
    b"fail": fail,
    b"wrong": wrong,
    b"twice": twice,
    b"large": large,
    b"stream": stream,
}
INSTEAD = {b"fail", b"wrong", b"large"}


def own_reply(job, batch):
    request_id, headers, inputs = job
    told = [(b"batch", batch), (b"pid", b"%d" % os.getpid())]
    if inputs and inputs[0].startswith(b"stream"):
        told.append((b"ts_stream_next", b"false"))
    body = b"".join(inputs) if inputs else b'{"described": "%s"}' % headers[b"describe"]
    return reply(request_id, body, told)


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
