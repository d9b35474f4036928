"""What a client may do at most: a large, slow or endless request is cut off, and a crowd is told to come back."""

import contextlib
import json
import select
import socket
import time

import httpx
import orjson
import pytest

ROW = {"inputs": {"x": [[0, 0, 0, 0]]}}
MAX_BODY_BYTES = 100_000
POST = b"POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n"
TOO_LARGE = "the body has more than 100000 bytes (setting max_body_bytes)"
TOO_SLOW = "the body did not arrive within 1 s (setting body_timeout_s)"


@pytest.fixture(scope="module")
def strict_server(start_server, repository):
    """A server with the tightest limits that there are."""
    counting = {"execution": "thread", "max_queue_rows": 1}
    flags = ["--max-body-bytes", str(MAX_BODY_BYTES), "--body-timeout-s", "1", "--header-timeout-s", "1"]
    flags += ["--max-header-bytes", "8192", "--model-settings", json.dumps({"counting": counting})]
    with start_server(repository, *flags) as running:
        yield running


class TestBodies:
    @pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
    @pytest.mark.parametrize("path", ["/predictions/mlp", "/v2/models/mlp/infer", "/v2/repository/index"])
    def test_a_body_that_is_too_large(self, server, path, chunked):
        """A body beyond max_body_bytes is refused, whether it says its length or not, and whoever it is for."""
        body = orjson.dumps(ROW) + b" " * 2 * MAX_BODY_BYTES
        content = iter([body[:90_000], body[90_000:]]) if chunked else body
        answer = server.request("POST", path, content=content)
        error = {"error": TOO_LARGE} if path.startswith("/v2") else {"code": 413, "type": "BodyTooLarge", "message": TOO_LARGE}

        assert ("content-length" in answer.request.headers) is not chunked
        assert (answer.status_code, answer.json()) == (413, error)
        assert answer.headers["connection"] == "close"

    def test_a_body_of_the_largest_size(self, server):
        """max_body_bytes itself is allowed, one byte more is not."""
        body = orjson.dumps(ROW)

        assert server.predict("mlp", body.ljust(MAX_BODY_BYTES)).status_code == 200
        assert server.predict("mlp", body.ljust(MAX_BODY_BYTES + 1)).status_code == 413

    def test_a_body_in_chunks(self, server):
        """A body of unknown length is read until it ends; so is none at all."""
        body = orjson.dumps(ROW)

        assert (
            server.predict("mlp", ROW).content
            == server.request("POST", "/predictions/mlp", content=iter([body[:9], body[9:]])).content
        )
        assert server.request("POST", "/v2/repository/index", content=iter([b"{", b"}"])).status_code == 200

    @pytest.mark.parametrize("path", [b"/predictions/mlp", b"/v2/repository/index"])
    def test_chunks_that_break_off(self, server, path):
        """What came before a damaged chunk is not taken for a whole body."""
        body = orjson.dumps(ROW)
        with server.connect() as connection:
            connection.sendall(POST % (path, b"Transfer-Encoding: chunked") + b"%x\r\n%s\r\nno size\r\n" % (len(body), body))
            status, _, answer = server.answer_on(connection)

        assert (status, "the body breaks off: " in answer) == (400, True)

    @pytest.mark.parametrize("path", [b"/predictions/mlp", b"/v2/repository/index"])
    @pytest.mark.parametrize("more", [b"", b"\r\nExpect: 100-continue"], ids=["", "expect"])
    def test_a_body_that_says_it_is_too_large_is_not_read(self, server, path, more):
        """A length beyond the limit is refused before the first byte of the body is sent, or asked for."""
        with server.connect() as connection:
            connection.sendall(POST % (path, b"Content-Length: 100001" + more))
            status, headers, _ = server.answer_on(connection)

        assert (status, headers["connection"]) == (413, "close")

    def test_bodies_that_trickle(self, strict_server):
        """Who sends a body too slowly is answered 408 when body_timeout_s is over, and cut off; whatever way it comes."""
        lengths = {b"Content-Length: 50000": b" ", b"Transfer-Encoding: chunked": b"1\r\n \r\n"}
        asked = {
            (path, length): drop for path in (b"/predictions/mlp", b"/v2/repository/index") for length, drop in lengths.items()
        }
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            waiting = {stack.enter_context(strict_server.connect()): key for key in asked}
            for connection, key in waiting.items():
                connection.sendall(POST % key)
            answers = {}
            while waiting:
                for connection in select.select(list(waiting), [], [], 0.05)[0]:
                    answers[waiting.pop(connection)] = time.monotonic() - began, strict_server.answer_on(connection)
                for connection, key in waiting.items():
                    with contextlib.suppress(ConnectionError):  # the answer is there
                        connection.sendall(asked[key])

        for (path, _), (took_s, (status, headers, body)) in answers.items():
            error = json.loads(body)
            assert (status, headers["connection"]) == (408, "close")
            assert error == (
                {"error": TOO_SLOW} if path.startswith(b"/v2") else {"code": 408, "type": "BodyTimeout", "message": TOO_SLOW}
            )
            assert took_s > 1

    def test_a_client_that_leaves_in_the_middle_of_its_body(self, strict_server, wait_for):
        """A client that goes away while it sends harms nobody, and is no error of the server's."""

        def left():
            return strict_server.metric("stateserve_requests_failed_total", model="", reason="client_left")

        before = left()
        with strict_server.connect() as connection:
            connection.sendall(POST % (b"/predictions/mlp", b"Content-Length: 100") + b"{")

        wait_for(lambda: left() == before + 1)
        assert strict_server.predict("mlp", ROW).status_code == 200
        assert not [line for line in strict_server.log_lines() if line["level"] != "INFO"]


class TestHeads:
    def test_a_head_that_does_not_come(self, strict_server):
        """A connection on which a request's head is not whole when header_timeout_s is over is closed without an answer."""
        began = time.monotonic()
        with strict_server.connect() as silent, strict_server.connect() as slow:
            slow.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n")

            assert [strict_server.answer_on(each)[0] for each in (silent, slow)] == [None, None]
        assert time.monotonic() - began > 1

    @pytest.mark.parametrize("field", ["/ping HTTP/1.1\r\nX-A: {}", "/{} HTTP/1.1"], ids=["header", "path"])
    def test_a_head_that_is_too_large(self, strict_server, field):
        """A head beyond max_header_bytes is refused with 431, and the connection closed."""
        with strict_server.connect() as connection:
            connection.sendall(f"GET {field.format('a' * 8192)}\r\nHost: x\r\n\r\n".encode())
            status, headers, _ = strict_server.answer_on(connection)

        assert (status, headers["connection"]) == (431, "close")

    @pytest.mark.parametrize(
        "head",
        [
            "nonsense",
            "POST /predictions/mlp HTTP/1.1\r\nContent-Length: -1",
            "POST /predictions/mlp HTTP/1.1\r\nContent-Length: 5, 6",
        ],
    )
    def test_what_is_no_http(self, strict_server, head):
        """What is no request is refused with 400, and the connection closed."""
        with strict_server.connect() as connection:
            connection.sendall(f"{head}\r\n\r\n".encode())
            status, headers, _ = strict_server.answer_on(connection)

        assert (status, headers["connection"]) == (400, "close")

    def test_two_lengths_in_one_request(self, strict_server):
        """Of a length and chunks the chunks hold, and nothing behind them is taken for a request: the connection is closed."""
        body = orjson.dumps(ROW)
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        with strict_server.connect() as connection:
            connection.sendall(POST % (b"/predictions/mlp", b"Content-Length: 4\r\nTransfer-Encoding: chunked") + chunks)
            connection.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
            status, headers, answer = strict_server.answer_on(connection)

        assert (status, headers["connection"]) == (200, "close")
        assert answer.encode() == strict_server.predict("mlp", ROW).content


class TestQueue:
    @pytest.fixture
    def busy(self, strict_server):
        """A connection whose request the engine is busy with for longer than half a second; it is answered in the end."""
        with strict_server.in_flight(1, 0.5, connection="close") as (connection,):
            yield
            assert strict_server.answer_on(connection)[0] == 200
            assert strict_server.metric("stateserve_queued_rows", model="counting") == 0

    def ask(self, server, **options):
        return server.predict("counting", {"inputs": {"rounds": [3]}}, **options)

    @pytest.mark.usefixtures("busy")
    def test_a_queue_that_is_full(self, strict_server):
        """Where max_queue_rows wait already, 503 says when to come back; who waited is answered."""
        with strict_server.in_flight(1, 0, connection="close") as (connection,):
            assert strict_server.metric("stateserve_queued_rows", model="counting") == 1
            answer = self.ask(strict_server)
            message = "1 rows wait and 1 more would be over max_queue_rows (1); ask again later"

            assert (answer.status_code, answer.json()) == (503, {"code": 503, "type": "QueueFull", "message": message})
            assert int(answer.headers["retry-after"]) >= 1
            assert strict_server.answer_on(connection)[0] == 200

    @pytest.mark.usefixtures("busy")
    def test_a_client_that_leaves_frees_its_place(self, strict_server, wait_for):
        """The rows of a client that leaves while they wait are dropped, and never run."""

        def counted(name, **labels):
            return strict_server.metric(name, model="counting", **labels)

        left, runs = (counted("stateserve_requests_failed_total", reason="client_left"), counted("stateserve_executions_total"))
        with strict_server.in_flight(1, 0):
            assert counted("stateserve_queued_rows") == 1
        wait_for(lambda: counted("stateserve_queued_rows") == 0)

        assert counted("stateserve_requests_failed_total", reason="client_left") == left + 1
        assert counted("stateserve_executions_total") == runs

    @pytest.mark.usefixtures("busy")
    def test_deadlines(self, strict_server):
        """A request that still waits when its own time is over is answered 504 and never run, whichever way it says so."""
        tensor = {"name": "rounds", "shape": [1], "datatype": "INT64", "data": [3]}
        message = "the deadline passed while the request waited"
        runs = strict_server.metric("stateserve_executions_total", model="counting")
        header = self.ask(strict_server, headers={"x-timeout-ms": "20"})
        body = {"inputs": [tensor], "parameters": {"timeout": 20_000}}
        parameter = strict_server.request("POST", "/v2/models/counting/infer", json=body)

        assert (header.status_code, header.json()) == (504, {"code": 504, "type": "DeadlinePassed", "message": message})
        assert (parameter.status_code, parameter.json()) == (504, {"error": message})
        assert strict_server.metric("stateserve_executions_total", model="counting") == runs

    def test_a_deadline_that_is_kept(self, strict_server):
        """Who is answered in time does not notice the deadline."""
        assert self.ask(strict_server, headers={"x-timeout-ms": "60000"}).status_code == 200


def test_more_connections_than_are_allowed(start_server, make_repository, classes_artifact):
    """Connections beyond max_connections wait until one is closed, and are answered then."""
    with start_server(make_repository({"classes/1": classes_artifact}), "--max-connections", "1") as server:
        with httpx.Client(base_url=server.url, verify=False) as first:
            assert first.get("/ping").status_code == 200
            waiting = server.connect()
            waiting.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert not select.select([waiting], [], [], 0.1)[0]
        with waiting:
            assert server.answer_on(waiting)[0] == 200


def test_a_client_that_reads_nothing_of_its_answers_is_cut_off(start_server, make_repository, classes_artifact):
    """Connections whose client leaves its answers unread for answer_timeout_s are ended, and others get their places."""
    repository = make_repository({"classes/1": classes_artifact})
    with start_server(repository, "--max-connections", "3", "--answer-timeout-s", "1") as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.sendall(b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 4)
        assert httpx.get(f"{server.url}/v2/health/live", timeout=30).status_code == 200
