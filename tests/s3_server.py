"""A real S3 server for the tests: moto's, over HTTP, in a process of its own that ends with the one that started it.

    with s3_server() as server:
        server.make_bucket("models")
        with server.environment():          # AWS_ENDPOINT_URL and keys, for everything in this process and its children
            Keeper("s3://models/runs/digits")

As a program it prints its port in one line and serves until its stdin is closed.
"""

import contextlib
import functools
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REGION = "us-east-1"
_START_S = 60
_UNSET = (
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL_S3",
    "FSSPEC_S3_ENDPOINT_URL",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
)


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint_url: str
    pid: int
    key: str = "testing"
    secret: str = "testing"

    @property
    def variables(self) -> dict[str, str]:
        """What a process needs in its environment to use this server as its S3."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    @contextlib.contextmanager
    def environment(self) -> Iterator[None]:
        """This process uses the server as its S3 while the context lasts, and so do those that it starts."""
        before = dict(os.environ)
        for name in _UNSET:
            os.environ.pop(name, None)
        os.environ.update(self.variables)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def client(self) -> Any:
        """boto3's client, for what a test looks at behind our backs; one for each server."""
        return _client(self.endpoint_url, self.key, self.secret)

    def make_bucket(self, name: str) -> str:
        """Make an empty bucket; its name."""
        self.client().create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str) -> dict[str, int]:
        """Every object of a bucket, and its size in bytes."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", ())}

    def unfinished(self, bucket: str) -> list[str]:
        """The keys of the multipart uploads that nobody finished or aborted."""
        return sorted(entry["Key"] for entry in self.client().list_multipart_uploads(Bucket=bucket).get("Uploads", ()))


@contextlib.contextmanager
def s3_server(**environment: str) -> Iterator[S3Server]:
    """Start a server on a free loopback port, and end it; `environment` is for the server's process (moto's own settings)."""
    command = [sys.executable, str(Path(__file__).resolve())]
    variables = {**os.environ, "PYTHONWARNINGS": "ignore", "MOTO_PRETTIFY_RESPONSES": "", **environment}
    process = subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield S3Server(f"http://127.0.0.1:{_port(process)}", process.pid)
    finally:
        process.kill()
        process.communicate(timeout=30)


@contextlib.contextmanager
def s3_place(bucket: str = "trainings", prefix: str = "runs/one") -> Iterator[Any]:
    """A server of its own, an empty bucket in it, and this process's environment set to it: the `S3Place` of a prefix there."""
    from tests.checkpoints.keeping.places import S3Place

    with s3_server() as server, server.environment():
        server.make_bucket(bucket)
        yield S3Place(server.client(), bucket, prefix)


@functools.cache
def _client(endpoint_url: str, key: str, secret: str) -> Any:
    from boto3.session import Session
    from botocore.config import Config

    config = Config(retries={"max_attempts": 2}, connect_timeout=10, read_timeout=30, proxies={})
    session = Session(aws_access_key_id=key, aws_secret_access_key=secret)
    return session.client("s3", endpoint_url=endpoint_url, region_name=REGION, config=config)


def _port(process: "subprocess.Popen[bytes]") -> int:
    stdout = process.stdout
    ready = stdout is not None and select.select([stdout], [], [], _START_S)[0]
    line = stdout.readline() if ready and stdout is not None else b""
    if not line.strip().isdigit():
        raise RuntimeError(f"the S3 server did not start within {_START_S} s (moto[server,s3] must be installed): {line!r}")
    return int(line)


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Serve."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    port = listener.getsockname()[1]
    os.environ["MOTO_PORT"] = str(port)
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class Handler(MotoRequestHandler):
        def send_response(self, code: int, message: str | None = None) -> None:
            """The first line alone: moto's answers bring Server and Date, and strict clients refuse either twice."""
            self.send_response_only(code, message)

    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", port, application, threaded=True, request_handler=Handler, fd=listener.fileno())
    print(port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
