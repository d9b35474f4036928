"""The repository API over HTTP: Triton's routes and bodies, our labels, and who may use them."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import JSONResponse

from artifact.errors import GoldenMismatch
from serving.errors import BadRequest, NotAllowed, ServingError
from serving.protocols import management
from serving.repository import Repository
from serving.settings import ModelSettings, Settings, VersionPolicy

MODEL = "/v2/repository/models/m"
HONOURED = "version_policy, max_batch_size, dynamic_batching, instance_group and name"


async def load_word(name, version, directory, settings) -> Any:
    """A served version of a folder with a word in it; "bad" fails."""

    async def retire():
        pass

    word = (directory / "word").read_text()
    if word == "bad":
        raise GoldenMismatch(f"{name} {version} is {word}")
    return SimpleNamespace(name=name, version=version, settings=settings, retire=retire)


@pytest.fixture
def ask(tmp_path):
    """A function that sends requests to an application with the routes, one after another: `(method, path, body)`."""

    def ask(*requests, client="127.0.0.1", headers=None, words=("good", "good"), **settings):
        for version, word in enumerate(words, start=1):
            (tmp_path / "m" / str(version)).mkdir(parents=True)
            (tmp_path / "m" / str(version) / "word").write_text(word)

        async def run():
            given = Settings(repository=tmp_path, **settings)
            async with Repository(given, load_word) as repository:
                app = FastAPI()
                app.include_router(management.router(lambda: repository, given))
                app.add_exception_handler(ServingError, _answer)
                transport = httpx.ASGITransport(app, client=(client, 1))
                async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as http:
                    answers = [await http.request(method, path, content=body) for method, path, body in requests]
                return answers, repository.served(), repository.labels("m")

        return asyncio.run(run())

    return ask


async def _answer(_, error):
    return JSONResponse({"error": str(error)}, error.status)


class TestRoutes:
    def test_the_index_is_tritons(self, ask):
        """No body, {} and {"ready": false} ask for all, {"ready": true} for what is served."""
        *whole, ready = [("POST", "/v2/repository/index", body) for body in (b"", b"{}", b'{"ready":false}', b'{"ready":true}')]
        answers, _, _ = ask(*whole, ready)
        served = {"name": "m", "version": "2", "state": "READY", "reason": ""}
        other = {"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "is not chosen by the version policy latest:1"}
        assert [answer.json() for answer in answers] == [[other, served]] * 3 + [[served]]

    def test_unload_and_load_answer_200_without_a_body(self, ask):
        """The bodies are those that tritonclient sends."""
        index = ("POST", "/v2/repository/index", b'{"ready":true}')
        unload = ("POST", f"{MODEL}/unload", b'{"parameters": {"unload_dependents": false}}')
        answers, served, _ = ask(unload, index, ("POST", f"{MODEL}/load", b"{}"), index)
        assert [(answer.status_code, answer.content) for answer in answers[:3:2]] == [(200, b"")] * 2
        assert [len(answer.json()) for answer in answers[1::2]] == [0, 1]
        assert [one.version for one in served] == [2]

    def test_a_config_holds_until_the_next_load(self, ask):
        """`config` is a JSON text in Triton's words; without one the server's own settings are back."""
        config = {
            "name": "m",
            "version_policy": {"all": {}},
            "max_batch_size": 8,
            "dynamic_batching": {"preferred_batch_size": [8, 4], "max_queue_delay_microseconds": "1500"},
            "instance_group": [{"count": 2}],
        }
        load = ("POST", f"{MODEL}/load", json.dumps({"parameters": {"config": json.dumps(config)}}).encode())
        answers, served, _ = ask(load)
        assert answers[0].status_code == 200
        expected = ModelSettings(
            version_policy=VersionPolicy(), max_batch_rows=8, preferred_batch_sizes=(4, 8), max_delay_ms=1.5, instances=2
        )
        assert [(one.version, one.settings) for one in served] == [(1, expected), (2, expected)]

    def test_a_version_is_loaded_beside_and_labelled(self, ask):
        """The way back: load version 1, let `default` stand for it, take it away again."""
        label = f"{MODEL}/labels/default"
        answers, served, labels = ask(
            ("PUT", label, b'{"version": 1}'),
            ("POST", f"{MODEL}/load", b'{"parameters": {"version": 1}}'),
            ("PUT", label, b'{"version": 1}'),
            ("DELETE", label, b""),
            ("PUT", f"{MODEL}/labels/stable", b'{"version": 1}'),
        )
        assert [answer.status_code for answer in answers] == [400, 200, 200, 200, 200]
        assert answers[0].json()["error"] == ("version 1 of m is not served (versions served: 2; labels: none); load it first")
        assert [one.version for one in served] == [1, 2]
        assert labels == {"stable": 1}

    def test_what_fails_is_told(self, ask):
        """A version that fails its checks is the 400 of the load that asked for it; an unknown model is a 404."""
        answers, _, _ = ask(
            ("POST", f"{MODEL}/load", b'{"parameters": {"version": 1}}'),
            ("POST", "/v2/repository/models/k/load", b""),
            ("POST", "/v2/repository/models/k/unload", b""),
            ("DELETE", f"{MODEL}/labels/stable", b""),
            words=("bad", "good"),
        )
        assert [answer.status_code for answer in answers] == [400, 404, 404, 404]
        assert [answer.json()["error"] for answer in answers] == [
            "m: version 1 failed its checks: m 1 is bad; versions served: 2",
            "no model is called 'k'; on disk: m",
            "no model is called 'k'; there are: m",
            "m has no label 'stable'; labels: none",
        ]

    @pytest.mark.parametrize("name", ["..%2F..%2Fetc", "%2e%2e", ".hidden", "m%00", "m%2F1"])
    def test_no_name_leads_out_of_the_root(self, ask, name):
        """Encoded or not, what is no folder of the root is not found."""
        answers, served, _ = ask(("POST", f"/v2/repository/models/{name}/load", b""))
        assert answers[0].status_code == 404
        assert [one.version for one in served] == [2]

    def test_every_route_is_documented(self):
        """The OpenAPI document has a summary, a description and, where there is one, a body for each."""
        app = FastAPI()
        app.include_router(management.router(lambda: pytest.fail("not asked"), Settings()))
        operations = [(method, it) for path in app.openapi()["paths"].values() for method, it in path.items()]
        assert len(operations) == 5
        for method, operation in operations:
            assert operation["summary"]
            assert operation["description"]
            assert ("requestBody" in operation) == (method != "delete")


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "body", "message"),
        [
            ("index", b"[]", "the body should be a JSON object, not list"),
            ("index", b'{"ready": 1}', 'the body should be empty or {"ready": true} or {"ready": false}'),
            ("models/m/load", b'{"config": "{}"}', 'the body should be empty or {"parameters": {...}}'),
            ("models/m/load", b'{"parameters": {"version": true}}', "version should be a whole number from 1, not True"),
            ("models/m/load", b'{"parameters": {"versions": 1}}', "unknown parameter 'versions'; load takes config and version"),
            (
                "models/m/load",
                b'{"parameters": {"config": "{}", "file:1/a": "AAAA"}}',
                "file:1/a: files cannot be sent; an artifact comes whole and hashed: export or copy it into the repository",
            ),
            (
                "models/m/unload",
                b'{"parameters": {"unload_dependents": "yes"}}',
                'unload takes no body, or {"parameters": {"unload_dependents": true}} (or false)',
            ),
        ],
    )
    def test_a_body_that_is_not_understood_is_refused(self, ask, path, body, message):
        """400 names what was found and what is expected; nothing is changed."""
        answers, served, _ = ask(("POST", f"/v2/repository/{path}", body))
        assert (answers[0].status_code, answers[0].json()) == (400, {"error": message})
        assert [one.version for one in served] == [2]

    def test_a_body_that_is_no_json_is_refused(self, ask):
        """However deep or broken."""
        paths = ["index", "models/m/load", "models/m/unload"]
        answers, _, _ = ask(
            *[("POST", f"/v2/repository/{path}", body) for path in paths for body in (b"{", b"[" * 10**6, b"\xff")]
        )
        assert {answer.status_code for answer in answers} == {400}
        assert all(answer.json()["error"].startswith("the body is not JSON: ") for answer in answers)

    @pytest.mark.parametrize(
        "body", [b"", b"{}", b'{"version": "x"}', b'{"version": 0}', b'{"version": 1.0}', b'{"version": 2, "a": 1}']
    )
    def test_a_label_needs_a_version(self, ask, body):
        """The body is {"version": N} and nothing else."""
        answers, _, labels = ask(("PUT", f"{MODEL}/labels/stable", body))
        assert (answers[0].status_code, labels) == (400, {})

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (7, "config should be a string: the JSON text of a model configuration"),
            ("[]", "config should be a JSON object, not list"),
            (
                '{"backend": "python"}',
                f"config.backend cannot be changed; those that can: {HONOURED}",
            ),
            ('{"name": "k"}', "config.name is 'k', and the model is 'm'"),
            ('{"max_batch_size": 0}', "config.max_batch_size should be a whole number from 1, not 0"),
            ('{"max_batch_size": 1e3}', "config.max_batch_size should be a whole number from 1, not 1000.0"),
            (
                '{"dynamic_batching": {"preserve_ordering": true}}',
                "of config.dynamic_batching only max_queue_delay_microseconds and preferred_batch_size can be changed",
            ),
            (
                '{"dynamic_batching": {"preferred_batch_size": 4}}',
                "config.dynamic_batching.preferred_batch_size should be a list of sizes, not 4",
            ),
            (
                '{"instance_group": [{"count": 1, "kind": "KIND_GPU"}]}',
                'config.instance_group should be [{"count": N}]: one group, of which the count can be changed',
            ),
            (
                '{"max_batch_size": 4, "dynamic_batching": {"preferred_batch_size": [8]}}',
                "config cannot be applied: preferred_batch_sizes: Value error, 8 is above max_batch_rows, which is 4",
            ),
        ],
    )
    def test_a_config_that_cannot_be_honoured_is_refused(self, config, message):
        """A key that would have no effect is named instead of being ignored."""
        with pytest.raises(BadRequest) as error:
            management.overridden(ModelSettings(), "m", config)
        assert str(error.value) == message

    @pytest.mark.parametrize(
        "policy",
        [
            {},
            {"latest": {}},
            {"latest": {"num_versions": 1}, "all": {}},
            {"all": {"a": 1}},
            {"specific": {"versions": []}},
            [],
            "all",
        ],
    )
    def test_a_version_policy_is_one_of_three(self, policy):
        """Nothing is guessed of a policy that is none, or two."""
        with pytest.raises(BadRequest, match=r"^config\.version_policy should be "):
            management.overridden(ModelSettings(), "m", json.dumps({"version_policy": policy}))

    @pytest.mark.parametrize(
        ("policy", "expected"),
        [
            ({"latest": {"num_versions": 2}}, "latest:2"),
            ({"all": {}}, "all"),
            ({"specific": {"versions": ["3", 1]}}, "versions:1,3"),
        ],
    )
    def test_tritons_policies_are_ours(self, policy, expected):
        """Numbers may be texts, as protobuf's JSON writes them."""
        overridden = management.overridden(ModelSettings(), "m", json.dumps({"version_policy": policy}))
        assert str(overridden.version_policy) == expected


class TestAllowed:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.1"])
    def test_auto_is_for_loopback(self, host):
        """Where the server listens on loopback, its clients are on the same machine."""
        management.allowed(Settings(host=host), "127.0.0.1", "http://127.0.0.1:8080")
        management.allowed(Settings(host=host), "::1", "http://localhost:8080")
        management.allowed(Settings(host=host), "::1")

    @pytest.mark.parametrize(
        ("host", "client", "what"),
        [
            ("0.0.0.0", "127.0.0.1", "the server listens on 0.0.0.0"),
            ("127.0.0.1", "10.0.0.7", "the request comes from 10.0.0.7"),
            ("127.0.0.1", None, "the request comes from an unknown address"),
        ],
    )
    def test_auto_refuses_other_addresses(self, host, client, what):
        """The message says which address it is, and what to set."""
        with pytest.raises(NotAllowed) as error:
            management.allowed(Settings(host=host), client)
        assert str(error.value) == (
            f"{what}, and loading, unloading and labels are for loopback addresses only, unless the setting repository_api is on"
        )

    @pytest.mark.parametrize("origin", ["https://example.org", "null", "http://[", "http://127.0.0.1.example.org"])
    def test_auto_refuses_pages_from_elsewhere(self, origin):
        """A browser on this machine may be steered by any page."""
        with pytest.raises(NotAllowed) as error:
            management.allowed(Settings(), "127.0.0.1", origin)
        assert str(error.value) == (
            f"a page of {origin} asks, and only pages of this machine may, unless the setting repository_api is on"
        )

    def test_off_is_for_nobody(self):
        """Loopback or not."""
        with pytest.raises(NotAllowed) as error:
            management.allowed(Settings(repository_api="off"), "127.0.0.1")
        assert str(error.value) == "loading, unloading and labels are switched off here (setting repository_api=off)"

    def test_on_is_for_all(self):
        """Who switches it on answers for who can reach the server."""
        management.allowed(Settings(host="0.0.0.0", repository_api="on"), "10.0.0.7", "https://example.org")

    def test_what_changes_something_is_guarded(self, ask):
        """Every route but the index answers 403 to a client that may not."""
        answers, served, _ = ask(
            ("POST", f"{MODEL}/load", b""),
            ("POST", f"{MODEL}/unload", b""),
            ("PUT", f"{MODEL}/labels/stable", b'{"version": 2}'),
            ("DELETE", f"{MODEL}/labels/stable", b""),
            ("POST", "/v2/repository/index", b""),
            client="10.0.0.7",
        )
        assert [answer.status_code for answer in answers] == [403, 403, 403, 403, 200]
        assert [one.version for one in served] == [2]

    def test_a_page_from_elsewhere_is_refused(self, ask):
        """A browser on this machine sends the page's origin, and the page has no say here."""
        answers, served, _ = ask(("POST", f"{MODEL}/unload", b""), headers={"origin": "https://example.org"})
        assert (answers[0].status_code, [one.version for one in served]) == (403, [2])


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
def test_a_proxy_on_this_machine_is_no_client_of_it(ask, header):
    """What a proxy passes on comes from who knows where, although its connection is from loopback; `on` lets it."""
    answers, served, _ = ask(("POST", f"{MODEL}/unload", b""), headers={header: "203.0.113.7"})
    assert answers[0].status_code == 403
    assert answers[0].json()["error"].startswith("the request comes from an unknown address, and loading, unloading and labels")
    assert len(served) == 1
