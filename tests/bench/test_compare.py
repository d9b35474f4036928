"""Two load tests side by side: what counts as worse, and what is said of it."""

import pytest
from made_results import MACHINE, a_round, closed, made, made_bound, made_slo, opened

from bench.compare import compare
from bench.results import OURS, Case, PayloadSent


def only(*cases, **changes):
    """A test with these loads and nothing else."""
    return made(cases=list(cases), **{"bound": None, "slo": None, **changes})


def steady(per_s, *, rounds=(1.0,), contender=OURS, connections=8, errors=None, mean_ms=2.0):
    """A closed loop whose rounds reach these shares of a throughput, with the same latency."""
    one = a_round(contender, 1000, mean_ms)
    made_rounds = [
        one.model_copy(
            update={"in_time": round(per_s * share * 10), "offered": round(per_s * share * 10), "errors": errors or {}}
        )
        for share in rounds
    ]
    return Case(contender=contender, loop="closed", connections=connections, rate_per_s=None, rounds=made_rounds)


def test_the_same_test_twice_has_no_change():
    """Nothing is worse, nothing is different, every number of ours is told."""
    found = compare(made(), made(), 0.1)
    assert found.beyond == []
    assert (found.different, found.unmatched) == ([], [])
    assert found.lines[0] == "Compared with the test of 2026-11-22 14:20 UTC:"
    assert found.lines[-1] == "Of 29 numbers of ours, 0 worse and 0 better by more than 10 %; 29 within it."


def test_what_the_terminal_says():
    """Word for word, in 100 columns."""
    old = only(closed(OURS, 1), closed(OURS, 32), bound=made_bound(), slo=made_slo())
    new = only(closed(OURS, 1, slower=0.8), closed(OURS, 32, slower=1.15), bound=made_bound(), slo=made_slo(None))
    assert compare(old, new, 0.1).lines == [
        "Compared with the test of 2026-11-22 14:20 UTC:",
        "                                   was     is   change   rounds",
        "1 connection    requests/s       2,513  3,142  +25.0 %  ± 1.1 %  better",
        "1 connection    p50 ms           0.357  0.298  -16.6 %  ± 0.9 %  better",
        "1 connection    p99 ms           0.944  0.589  -37.6 %  ± 2.7 %  better",
        "32 connections  requests/s      11,204  9,743  -13.0 %  ± 1.2 %  WORSE",
        "32 connections  p50 ms            2.18   2.50  +14.6 %  ± 1.1 %  WORSE",
        "32 connections  p99 ms            11.9   13.8  +16.0 %  ± 1.3 %  WORSE",
        "at its best     served / bound    69 %   60 %  -13.0 %           WORSE",
        "p99=20ms        requests/s       8,410   none                    WORSE",
        "Of 8 numbers of ours, 5 worse and 3 better by more than 10 %; 0 within it.",
    ]


@pytest.mark.parametrize(("per_s", "verdict"), [(1000, "same"), (905, "same"), (895, "worse"), (1095, "same"), (1105, "better")])
def test_a_change_counts_beyond_the_tolerance(per_s, verdict):
    """10 % either way are nothing."""
    found = compare(only(steady(1000)), only(steady(per_s)), 0.1)
    assert [one.verdict for one in found.changes] == [verdict, "same", "same"]
    assert found.beyond == (["8 connections, requests/s: 1,000 became 895"] if verdict == "worse" else [])


def test_a_change_within_the_rounds_counts_and_is_told_so():
    """Rounds that differ by more than the change do not excuse it: a reader sees both."""
    old, new = only(steady(1000, rounds=(0.7, 1.0, 1.1))), only(steady(800, rounds=(0.9, 1.0, 1.2)))
    found = compare(old, new, 0.1)
    assert len(found.beyond) == 1
    assert " ".join(found.lines[2].split()) == "8 connections requests/s 1,000 800 -20.0 % ± 20.0 % WORSE, within the rounds"


def test_new_errors_are_worse_however_few():
    """From none, any failed request is a change; so is a rate of them that grew beyond the tolerance."""
    found = compare(only(steady(1000)), only(steady(1000, errors={"timeout": 1})), 0.1)
    assert found.beyond == ["8 connections, failed: 0 % became 0.01 %"]
    assert " ".join(found.lines[-2].split()) == "8 connections failed 0 % 0.01 % WORSE"
    same = compare(only(steady(1000, errors={"timeout": 100})), only(steady(1000, errors={"status 503": 105})), 0.1)
    assert same.beyond == []


def test_answers_that_are_gone_are_worse():
    """A load without any answer has no latency: that is no excuse."""
    gone = steady(0, errors={"status 503": 40})
    gone = gone.model_copy(update={"rounds": [gone.rounds[0].model_copy(update={"latency_ms": None})]})
    found = compare(only(steady(1000)), only(gone), 0.1)
    assert [(one.unit, one.verdict) for one in found.changes] == [
        ("requests/s", "worse"),
        ("p50 ms", "worse"),
        ("p99 ms", "worse"),
        ("failed", "worse"),
    ]


def test_a_peer_that_got_slower_is_told_and_does_not_count():
    """It is not our regression; it may say that the machine was slower."""
    old = only(steady(1000), steady(500, contender="fastapi"))
    found = compare(old, only(steady(1000), steady(300, contender="fastapi")), 0.1)
    assert found.beyond == []
    assert " ".join(found.lines[-2].split()) == "fastapi, 8 connections requests/s 500 300 -40.0 % worse"


def test_what_makes_two_tests_incomparable_is_said_first():
    """Another machine, model, protocol, payload, version; an incomplete test."""
    new = made(
        machine=MACHINE | {"cpu": "AMD EPYC 9R14", "isa": ["avx2", "sve"], "packages": {**MACHINE["packages"], "numpy": "2.5.0"}},
        payload=PayloadSent(protocol="oip-json", different=8, rows=4, body_bytes=9000),
        model=made().model.model_copy(
            update={"facts": {"content_id": "77" * 32, "engine": "onnx", "threads": "2", "max_rows": "8", "tuned": "bench.json"}}
        ),
        complete=False,
        stopped_by="it was interrupted",
    )
    found = compare(made(), new, 0.1)
    assert found.different == [
        "another machine: cpu was Intel(R) Xeon(R) Processor, is AMD EPYC 9R14",
        "another machine: isa lost amx_tile, avx512f, fma; gained sve",
        f"another model content: it was {'5c1f' * 16}, is {'77' * 32}",
        "another number of threads: it was 1, is 2",
        "another max_rows: it was not known, is 8",
        "another tuning: it was not known, is bench.json",
        "another protocol: it was oip-binary, is oip-json",
        "another payload: it was 1 rows, 3,288 bytes, is 4 rows, 9,000 bytes",
        "another version: numpy was 2.4.6, is 2.5.0",
        "the new test is incomplete: it was interrupted",
    ]
    assert found.lines[1] == "!! another machine: cpu was Intel(R) Xeon(R) Processor, is AMD EPYC 9R14"
    assert max(len(line) for line in found.lines) <= 100


def test_loads_of_one_test_only_are_named():
    """By server and loop, in a line; rates that differ by half a per cent are the same."""
    old = only(steady(1000), steady(1000, connections=32), opened(OURS, 500), opened(OURS, 900), slo=made_slo())
    new = only(steady(1000), steady(9, contender="fastapi"), opened(OURS, 502), opened(OURS, 950))
    found = compare(old, new, 0.1)
    assert found.unmatched == [
        "Stateserve, closed loop, 32 connections: in the old test only, which counts as worse",
        "Stateserve, open loop, 900/s: in the old test only",
        "Stateserve, open loop, 950/s: in the new test only",
        "fastapi, closed loop, 8 connections: in the new test only",
        "the target: it was p99=20ms, is none",
    ]
    assert found.beyond == ["32 connections: in the old test only"]
    assert [(one.load, one.unit) for one in found.changes if one.load.endswith("/s")] == [
        ("502/s", "p50 ms"),
        ("502/s", "p99 ms"),
    ]


def test_nothing_in_common_fails():
    """A test that compared nothing proves nothing: its exit code must not be 0, whatever a peer did."""
    nothing = "Nothing of ours could be compared: no load, bound or target is in both tests. It counts as worse."
    peer = steady(500, contender="fastapi")
    found = compare(only(opened(OURS, 500), peer), only(opened(OURS, 700), peer), 0.1)
    assert found.lines[-1] == nothing
    assert found.beyond == [nothing]
    assert compare(made(cases=[], bound=None, slo=None), made(), 0.1).beyond == [nothing]


def test_a_load_that_is_no_longer_measured_counts():
    """Leaving a load out does not make it well; a new one does no harm, and a rate of a sweep is another every time."""
    found = compare(only(steady(1000), steady(9, connections=32), opened(OURS, 500)), only(steady(1000)), 0.1)
    assert found.beyond == ["32 connections: in the old test only"]
    assert " ".join(found.lines[-2:]) == (
        "Of 3 numbers of ours, 0 worse and 0 better by more than 10 %; 3 within it; 1 load of the old test    missing, which "
        "counts as worse."
    )
    assert compare(only(steady(1000)), only(steady(1000), steady(9, connections=32)), 0.1).beyond == []


def test_the_share_of_the_bound_is_compared_with_the_same_bound_only():
    """Beside an engine with twice the threads, a faster server would have the smaller share."""
    twice = made_bound(0.5).model_copy(update={"threads": 2})
    found = compare(only(steady(1000), bound=made_bound()), only(steady(1500), bound=twice), 0.1)
    assert found.different == ["another bound: threads was 1, is 2: served / bound is not compared"]
    assert found.beyond == []
    same = compare(only(steady(1000), bound=made_bound()), only(steady(1000), bound=made_bound(0.5)), 0.1)
    assert same.beyond == ["at its best, served / bound: 6 % became 3 %"]
    gone = compare(only(steady(1000), bound=made_bound()), only(steady(1000)), 0.1)
    assert gone.unmatched == ["served / bound: in the old test only"]


def test_the_highest_rate_is_compared_where_the_target_is_the_same():
    """A target that no rate holds any more is worse, one that is held now is better."""
    none, some = made(cases=[], bound=None, slo=made_slo(None)), made(cases=[], bound=None, slo=made_slo())
    assert [one.verdict for one in compare(some, none, 0.1).changes] == ["worse"]
    assert [one.verdict for one in compare(none, some, 0.1).changes] == ["better"]
    assert compare(none, none, 0.1).changes == []
