import pytest

from bench.__main__ import _command
from bench.errors import NotAsked
from bench.options import parse_concurrency, parse_header, parse_objective, parse_rates


@pytest.mark.parametrize(
    ("text", "quantile", "limit_ms"),
    [("p99=20ms", "p99", 20.0), ("p50=0.5ms", "p50", 0.5), ("p99.9 = 1s", "p99.9", 1000.0), ("p90=250us", "p90", 0.25)],
)
def test_a_target_is_a_quantile_and_a_time(text, quantile, limit_ms):
    """The unit may be us, ms or s; blanks do not matter."""
    found = parse_objective(text)
    assert (found.quantile, found.limit_ms) == (quantile, pytest.approx(limit_ms))


@pytest.mark.parametrize("text", ["p99", "p99=20", "p98=20ms", "p99=0ms", "p99=1.2.3ms", "20ms", ""])
def test_another_target_is_refused(text):
    """The message says what a target looks like."""
    with pytest.raises(NotAsked) as caught:
        parse_objective(text)
    assert str(caught.value) == (
        f"--slo {text!r} is no objective: write a quantile (p50, p90, p99, p99.9) and a time, as in p99=20ms"
    )


def test_concurrency_is_ascending_and_each_once():
    """0, or nothing, asks for no closed loop."""
    assert parse_concurrency("32,1,8,8") == [1, 8, 32]
    assert parse_concurrency("0") == []


@pytest.mark.parametrize("text", ["1,x", "1.5", "1,,2"])
def test_concurrency_must_be_whole_numbers(text):
    """The message says what to write."""
    with pytest.raises(NotAsked) as caught:
        parse_concurrency(text)
    assert str(caught.value) == f"--concurrency {text!r}: write numbers with commas between them, as in 1,8,32"


@pytest.mark.parametrize("text", ["-5", "100,0", "inf", "nan"])
def test_rates_must_be_above_zero(text):
    """So must connections."""
    with pytest.raises(NotAsked) as caught:
        parse_rates(text)
    assert str(caught.value) == f"--rate {text!r}: every number must be above 0"


def test_rates_are_numbers_or_a_sweep():
    """Without the flag there is no open loop."""
    assert parse_rates("500,99.5") == ([99.5, 500.0], False)
    assert parse_rates("sweep") == ([], True)
    assert parse_rates(None) == ([], False)


def test_a_header_is_a_name_and_a_value():
    """The value may have colons."""
    assert parse_header("Authorization: Bearer a:b") == ("Authorization", "Bearer a:b")


@pytest.mark.parametrize("text", ["Authorization", "bad name: x", ": x", "a: b\r\nc: d"])
def test_a_header_cannot_carry_another(text):
    """A line break in a value would begin a header of its own."""
    with pytest.raises(NotAsked) as caught:
        parse_header(text)
    assert str(caught.value).startswith(f"--header {text!r} is no header")


@pytest.mark.parametrize("entrance", [[], ["bench"]])
def test_the_command_that_is_written_down_runs_and_holds_no_secret(entrance):
    """By `python -m bench` as by `stateserve bench`; the values of headers and the query of a URL are left out."""
    words = ["--url", "http://h:1/p?token=abc", "--header", "Authorization: Bearer abc", "--header=X-Key: abc", "--rows", "2"]
    assert _command([*entrance, *words]) == (
        "stateserve bench --url 'http://h:1/p?…' --header 'Authorization: …' '--header=X-Key: …' --rows 2"
    )
