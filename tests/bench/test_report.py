"""The report: what it says, that it needs nothing else, and that whatever was measured can be shown."""

import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from made_results import CONTENDERS, a_round, latency, made, made_bound, made_slo, opened

from bench import report, results
from bench.report import page as html_page
from bench.report import schema, style, units
from bench.report.findings import keeps_up, knee, saturated, share_of_bound
from bench.report.markup import element
from bench.report.sections.slo import slo_words
from bench.report.verdict import sentences
from bench.results import OURS, BoundPoint, Contender, Probe, Results, Slo

DOCS = Path(__file__).parents[2] / "docs"
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)> $x^2$ &amp; #0a0bff url(#a"b) href="#c)'
VOID = {"meta"}


class Page(HTMLParser):
    """A page taken apart: its text by section, its tables' cells, its ids, and every element's attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def text(self):
        return "".join(data for tag, data in self.texts if tag != "style")

    def attributes(self, name):
        return [found[name] for _, found in self.elements if name in found]


def written(folder, found, previous=None):
    report.write(found, folder, previous)
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The page of a whole test, with everything in it, compared with a faster one."""
    folder = tmp_path_factory.mktemp("full")
    return written(folder, made(slower=1.15), made())


@pytest.fixture(scope="module")
def page(full):
    return Page(full)


def test_the_verdict_is_told_in_sentences_with_numbers(tmp_path):
    """Throughput and p99 where it was best, the engine, the target, the others, the knee, the limit, errors."""
    found = Page(written(tmp_path, made(peers=("fastapi",))))
    said = found.text
    for sentence in (
        "11,204 requests/s at 32 connections, p99 11.9 ms. 3 rounds: 11,078 to 11,342.",
        "69 % of what the engine does alone (16,154 rows/s, 32 rows in a call).",
        "p99=20ms holds up to 8,410/s.",
        "Requests/s at 32 connections: 7.84 times FastAPI, plain (7.65\N{EN DASH}8.01).",
        "The knee is at 7,861/s (p99 1.07 ms); from 12,353/s on, answers no longer keep up.",
        "The load generator was the limit at 12,353/s: its busiest process used 93 % of a core.",
        "The machine was the limit at 32 connections: its cores were 99 % busy, server and load generator together.",
        "No request failed.",
    ):
        assert sentence in said


def test_every_load_and_every_part_of_the_results_is_on_the_page(page):
    """A section for each, and a row for each load, with its numbers."""
    found = made(slower=1.15)
    keys = ["changes", "latency", "throughput", "rates", "slo", "time", "engine", "peers", "resources", "numbers", "made-on"]
    assert [attributes["id"] for tag, attributes in page.elements if tag == "section"] == keys
    cells = {data for tag, data in page.texts if tag in {"td", "th"}}
    for case in found.cases:
        assert {
            units.exact(case.requests_per_s, 5),
            *(units.exact(case.latency_ms(name), 5) for name in ("p50", "p999")),
        } <= cells
    assert {units.exact(probe.rate_per_s) for probe in made_slo().probes} <= cells
    assert {units.exact(point.rows_per_s) for point in made_bound(1.15).points} <= cells
    assert found.command in page.text
    assert {"Intel(R) Xeon(R) Processor", "2.4.6", "5c1f" * 16} <= {data for tag, data in page.texts if tag == "dd"}


def test_the_page_needs_no_script_and_nothing_else(full, page):
    """It works under a policy that forbids everything but styles within it, and says so itself."""
    assert "<script" not in full.lower()
    assert not re.search(r"(?:https?:)?//[^\s\"'<]+", full.replace("http://127.0.0.1:8080", ""))
    assert not re.search(r"@import|url\((?!#)", full)
    assert {"src", "onclick", "onload", "srcset", "data"}.isdisjoint({name for _, found in page.elements for name in found})
    assert all(link.startswith("#") for link in page.attributes("href"))
    assert "default-src 'none'; style-src 'unsafe-inline'" in page.attributes("content")


def test_every_picture_is_there_for_wide_and_narrow_pages_with_its_facts_in_words(page):
    """Each has a role and a label; ids are used once, and every reference has its aim."""
    pictures = [found for tag, found in page.elements if tag == "svg"]
    assert [found["class"] for found in pictures] == ["wide", "narrow"] * (len(pictures) // 2)
    assert len(pictures) == 2 * 10
    assert all(found["role"] == "img" and re.search(r"\d", found["aria-label"]) for found in pictures)
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    used = {link[1:] for link in page.attributes("href")} | {
        aim for path in page.attributes("clip-path") for aim in re.findall(r"#([^)]+)", path)
    }
    assert used <= set(ids)


def test_pictures_have_the_pages_own_colours_and_font(full):
    """No colour stands in them but by a variable of the style sheet, which has each of them for light and dark."""
    pictures = "".join(re.findall(r"<svg.*?</svg>", full, re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}|font-family|DejaVu", pictures)
    assert set(re.findall(r"var\(--([\w-]+)\)", pictures)) <= set(style._LIGHT) == set(style._DARK)
    assert "@media screen and (prefers-color-scheme: dark)" in full


@pytest.mark.parametrize("colours", [style._LIGHT, style._DARK], ids=["light", "dark"])
def test_text_can_be_read_in_both_schemes(colours):
    """WCAG AA: a contrast of 4.5 at least, for the names of series, too."""

    def luminance(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one, two):
        low, high = sorted([luminance(colours[one]), luminance(colours[two])])
        return (high + 0.05) / (low + 0.05)

    texts = ["ink", "muted", "link", "bad", "good", "s0", "s1", "s2", "s3", "s4"]
    pairs = [*((name, "bg") for name in texts), ("bad", "bad-bg"), ("warn", "warn-bg"), ("ink", "panel")]
    assert {pair: contrast(*pair) for pair in pairs if contrast(*pair) < 4.5} == {}


def test_headings_and_tables_are_named(page):
    """One h1, an h2 for each section, a caption for each table; tables scroll within themselves, by keyboard, too."""
    tags = [tag for tag, _ in page.elements]
    assert tags.count("h1") == 1
    assert tags.count("h2") == tags.count("section")
    assert tags.count("caption") == tags.count("table") == sum(found.get("class") == "scroll" for _, found in page.elements)
    assert all(
        found["tabindex"] == "0" and found["role"] == "region" for _, found in page.elements if found.get("class") == "scroll"
    )


def test_the_same_results_give_the_same_bytes(tmp_path):
    """Nothing of time, of the process or of chance is in the files."""
    found = made(peers=("fastapi",), concurrency=(1, 32))
    first = written(tmp_path, found)
    program = (
        "import sys; from pathlib import Path; from bench import report, results\n"
        "report.write(results.read(Path(sys.argv[1]) / 'results.json'), Path(sys.argv[1]))"
    )
    results.write(found, tmp_path / "results.json")
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=DOCS.parent)
    assert (tmp_path / "report.html").read_text() == first


def test_nothing_from_a_server_or_a_file_becomes_markup(tmp_path):
    """Names, facts, errors and notes with HTML in them are text on the page and in its pictures."""
    found = made(peers=("fastapi",), concurrency=(8,), rates=False, notes=[HOSTILE], command=HOSTILE, url=HOSTILE)
    bad = [one.model_copy(update={"errors": {HOSTILE: 3}}) for one in found.cases[0].rounds]
    found = found.model_copy(
        update={
            "cases": [found.cases[0].model_copy(update={"rounds": bad}), *found.cases[1:]],
            "contenders": {**CONTENDERS, "fastapi": Contender(title=HOSTILE, about=HOSTILE, settings={HOSTILE: HOSTILE})},
            "model": found.model.model_copy(update={"name": HOSTILE, "facts": {HOSTILE: HOSTILE}}),
            "machine": {HOSTILE: [HOSTILE], "cpu": {HOSTILE: HOSTILE}},
            "complete": False,
            "stopped_by": HOSTILE,
        }
    )
    text = written(tmp_path, found, found)
    page = Page(text)
    assert {"script", "img"}.isdisjoint(tag for tag, _ in page.elements)
    assert HOSTILE in page.text
    assert any(tag == "text" and HOSTILE in data for tag, data in page.texts)


def test_markup_escapes_whatever_is_not_markup():
    """Elements within elements stay; text and attributes are escaped."""
    made_of = element("p", "<b>", element("b", "&"), title='"')
    assert made_of == '<p title="&quot;">&lt;b&gt;<b>&amp;</b></p>'


def test_a_test_that_was_stopped_says_so_first(tmp_path):
    """Why it was stopped and what failed stand above every number, and what was measured is shown."""
    found = made(peers=("fastapi",), rates=False, slo=None, complete=False, stopped_by="the server is gone: connection refused.")
    last = [a_round(OURS, 4000, 8, seconds=3, errors={"connection refused": 1312, "timeout": 64})]
    cases = [*found.cases[:3], found.cases[4].model_copy(update={"rounds": last})]
    said = Page(written(tmp_path, found.model_copy(update={"cases": cases}))).text
    assert "Incomplete. Stopped: the server is gone: connection refused. What was measured by then is below." in said
    kinds = "1,312 \N{MULTIPLICATION SIGN} connection refused, 64 \N{MULTIPLICATION SIGN} timeout."
    assert f"1,376 of 415,846 requests failed (0.33 %): {kinds}" in said
    assert said.index("Incomplete") < said.index("requests failed") < said.index("10,932 requests/s at 8 connections")


def test_a_test_without_any_load_has_a_page(tmp_path):
    """Stopped before the first answer: the reason, the machine, the command."""
    found = made(cases=[], bound=None, slo=None, complete=False, stopped_by="it was interrupted")
    page = Page(written(tmp_path, found))
    assert "Incomplete. Stopped: it was interrupted. What was measured by then is below." in page.text
    assert "Nothing was measured." in page.text
    assert [found["id"] for tag, found in page.elements if tag == "section"] == ["made-on"]
    assert (tmp_path / "results.csv").read_text().count("\n") == 1


def _unanswered():
    lost = a_round(OURS, 0, 1, errors={"status 503": 40}).model_copy(update={"latency_ms": None})
    found = made(peers=(), concurrency=(8,), rates=False)
    return found.model_copy(update={"cases": [found.cases[0].model_copy(update={"rounds": [lost]})]})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            made(peers=(), concurrency=(32,), rates=False, slo=made_slo(None)),
            "p99=20ms is not held at any rate that was tried; the lowest was 28/s",
        ),
        (made(concurrency=(), peers=(), bound=None, slo=None), "11,400 requests/s answered with 12,353/s due, p99 828 ms."),
        (made(peers=(), concurrency=(1, 2, 4, 8, 16, 32, 64), rates=False), "11,404 requests/s at 64 connections"),
        (made(peers=(), concurrency=(8,), rates=False, gpu=True), "NVIDIA H200"),
        (_unanswered(), "0 requests/s at 8 connections."),
    ],
    ids=["no rate holds", "rates only", "seven concurrencies", "a gpu", "no answer at all"],
)
def test_whatever_is_missing_is_left_out(tmp_path, found, said):
    """Parts of a test make a page, too."""
    assert said in Page(written(tmp_path, found)).text


def test_a_peer_that_was_asked_less_often_is_compared_by_the_rounds_it_has(tmp_path):
    """Ratios are those of rounds that both have."""
    found = made(peers=("fastapi",), concurrency=(32,), rates=False)
    cases = [found.cases[0], found.cases[1].model_copy(update={"rounds": found.cases[1].rounds[:1]})]
    one = f"{cases[0].rounds[0].requests_per_s / cases[1].rounds[0].requests_per_s:.2f}"
    said = Page(written(tmp_path, found.model_copy(update={"cases": cases}))).text
    assert f"{one} times FastAPI, plain ({one}\N{EN DASH}{one})." in said


def test_a_peer_that_failed_requests_is_told_so_beside_its_ratio():
    """Fast in refusing is not fast: the ratio alone would flatter either."""
    found = made(peers=("fastapi",), concurrency=(8,), rates=False)
    failing = [one.model_copy(update={"errors": {"status 503": one.offered // 8}}) for one in found.cases[1].rounds]
    cases = [found.cases[0], found.cases[1].model_copy(update={"rounds": failing})]
    said = said_of(found.model_copy(update={"cases": cases}))
    assert any(
        one.startswith("Requests/s at 8 connections: ") and one.endswith(" (12 % of its requests failed).") for one in said
    )


def said_of(found):
    """The verdict's sentences as text."""
    return ["".join(data for _, data in Page(one).texts) for one in sentences(found)]


def used(case, client, machine):
    """The case with a load generator and a machine that were so busy."""
    rounds = [one.model_copy(update={"client_busy": client, "machine_busy": machine}) for one in case.rounds]
    return case.model_copy(update={"rounds": rounds})


@pytest.mark.parametrize(
    ("client", "machine", "told"),
    [
        (
            *(0.45, 0.6),
            (
                "Neither the load generator nor the machine was the limit at 8 connections: the generator used 45 % of a core"
                ", the machine's cores were 60 % busy."
            ),
        ),
        (
            *(0.45, None),
            (
                "The load generator was not the limit at 8 connections: its busiest process used 45 % of a core"
                "; how busy the server's machine was is not known."
            ),
        ),
        (
            *(0.85, 0.6),
            (
                "The load generator was nearly the limit at 8 connections: its busiest process used 85 % of a core"
                ", the machine's cores were 60 % busy."
            ),
        ),
        (
            *(0.45, 0.8),
            "The machine was nearly the limit at 8 connections: its cores were 80 % busy, server and load generator together.",
        ),
        (
            *(0.45, 0.96),
            "The machine was the limit at 8 connections: its cores were 96 % busy, server and load generator together.",
        ),
        (*(0.97, None), "The load generator was the limit at 8 connections: its busiest process used 97 % of a core."),
    ],
)
def test_the_limit_is_told_as_far_as_it_is_known(client, machine, told):
    """A machine that nobody could look into is not cleared; what is nearly full is not either."""
    found = made(peers=(), concurrency=(8,), rates=False)
    found = found.model_copy(update={"cases": [used(found.cases[0], client, machine)]})
    assert said_of(found)[-2] == told


def test_a_load_generator_that_was_the_limit_anywhere_is_named():
    """Under the loads of peers and rates, too: their numbers would be the generator's."""
    found = made(peers=("fastapi",), concurrency=(8, 32), rates=False)
    busy = [0.3, 0.95, 0.3, 0.92]
    cases = [used(case, share, 0.5) for case, share in zip(found.cases, busy, strict=True)]
    cases.append(used(opened(OURS, 500), 0.98, 0.5))
    said = said_of(found.model_copy(update={"cases": cases}))
    assert (
        "The load generator was the limit at 8 connections of FastAPI, plain, 32 connections of FastAPI, plain and 500/s: its "
        "busiest process used up to 98 % of a core."
    ) in said


def test_a_foreign_server_is_not_called_ours():
    """It is called what the results call it, on the whole page."""
    found = made(peers=("fastapi",), concurrency=(1, 8))
    foreign = {**found.contenders, OURS: Contender(title="the server", about="The server at 10.0.0.7:80.")}
    text = html_page.page(found.model_copy(update={"contenders": foreign}), None)
    said = Page(text).text + "".join(Page(text).attributes("aria-label"))
    assert "Stateserve" not in said
    assert {"The server by concurrency", "The server: latency by rate"} <= {data for _, data in Page(text).texts}


@pytest.mark.parametrize(
    ("highest", "probes", "told"),
    [
        (8410.0, [(8410.0, 12.0)], ("p99=20ms holds up to 8,410/s", ".")),
        (None, [], (
            "No rate was tried for p99=20ms",
            ": at the rates that the server reaches, one load may have too few requests to tell p99; give a longer --duration.",
        )),
        (None, [(200.0, 31.0), (100.0, 12.0), (100.0, 25.0)], (
            "No rate held p99=20ms twice", "; 100/s was the highest that held it once.",
        )),
        (None, [(200.0, 31.0), (100.0, 25.0)], (
            "p99=20ms is not held at any rate that was tried", "; the lowest was 100/s: p99 25 ms.",
        )),
    ],
    ids=["held", "nothing tried", "held once", "none held"],
)  # fmt: skip
def test_what_the_search_for_a_target_found(highest, probes, told):
    """Nothing tried, nothing confirmed and nothing held are three things."""
    tried = [Probe(rate_per_s=rate, achieved_per_s=rate, latency_ms=ms, held=ms <= 20) for rate, ms in probes]
    assert slo_words(Slo(target="p99=20ms", quantile="p99", limit_ms=20.0, highest_per_s=highest, probes=tried)) == told


def test_headings_of_columns_have_names_and_changes_are_told_in_words(full, page):
    """No heading is empty, and worse or better is not a colour alone: it is written, and the markers are filled or hollow."""
    assert not re.search(r"<th[^>]*></th>", full)
    assert any(tag == "text" and "requests/s -13.0 % worse" in data for tag, data in page.texts)


def test_a_missing_matplotlib_is_noticed_before_anything_is_measured(monkeypatch):
    """The error names the package, so that the command tells the install line."""
    report.require_installed()
    monkeypatch.setattr(report, "_NEEDED", "a_package_that_nobody_has")
    with pytest.raises(ModuleNotFoundError) as caught:
        report.require_installed()
    assert caught.value.name == "a_package_that_nobody_has"


def test_the_knee_is_where_throughput_over_mean_latency_is_largest():
    """A queue's power has one summit; the rate beyond its capacity is the first that it cannot follow."""
    found = made(peers=())
    powers = [case.requests_per_s / (case.latency_ms("mean") or 1) for case in found.open()]
    assert knee(found) == found.open()[powers.index(max(powers))]
    assert saturated(found) == found.open()[-1]
    assert knee(found.model_copy(update={"cases": found.open()[:2]})) is None


def test_the_knee_at_the_end_of_what_was_tried_has_its_caveat_in_the_verdict():
    """It may be elsewhere; and a rate that the server could not follow is no knee."""
    cases = [opened(OURS, rate_per_s) for rate_per_s in (2000, 4000, 6000)]
    assert "The knee is at 6,000/s (p99 0.656 ms), the highest rate that was tried: it may be higher." in said_of(
        made(cases=cases)
    )
    hasty = opened(OURS, 16_000)
    fast = [one.model_copy(update={"latency_ms": latency(0.01, 0.01)}) for one in hasty.rounds]
    beyond = made(cases=[*cases, hasty.model_copy(update={"rounds": fast})])
    assert saturated(beyond) == beyond.open()[-1]
    assert knee(beyond) is None


def test_one_bad_rate_among_good_ones_is_not_the_end():
    """A stall of the machine is no limit of the server: it could follow a higher rate."""
    rates = [opened(OURS, rate_per_s) for rate_per_s in (1000, 2000, 3000)]
    late = opened(OURS, 20_000).rounds
    cases = [rates[0], rates[1].model_copy(update={"rounds": late}), rates[2]]
    assert saturated(made(cases=cases)) is None
    assert saturated(made(cases=[*cases, opened(OURS, 13_000)])) == opened(OURS, 13_000)
    assert saturated(made(cases=cases[1:2])) == cases[1]


@pytest.mark.parametrize(("rate_per_s", "kept"), [(11_300, True), (11_900, False), (16_000, False)])
def test_an_open_loop_that_grew_late_did_not_keep_up_though_all_was_answered(rate_per_s, kept):
    """Every request is waited for: what shows the backlog is that half of them were late."""
    case = opened(OURS, rate_per_s)
    assert keeps_up(case) is kept
    assert case.requests_per_s == pytest.approx(min(rate_per_s, 11_400), rel=0.01)


@pytest.mark.parametrize(("kind", "kept"), [("status 503", True), ("timeout", False)])
def test_requests_that_failed_are_no_backlog(kind, kept):
    """A refusal is told as a failure, not as falling behind; a request that nobody waited for any longer is a backlog."""
    good = opened(OURS, 1000)
    failing = [one.model_copy(update={"offered": one.offered + 2000, "errors": {kind: 2000}}) for one in good.rounds]
    assert keeps_up(good.model_copy(update={"rounds": failing})) is kept


def test_served_over_bound_is_in_rows():
    """A server that answers 50 requests of 8 rows in a second beside an engine with 500 rows a second is at 0.8."""
    one = a_round(OURS, 50, 2.0, rows=8)
    case = opened(OURS, 500).model_copy(update={"rounds": [one]})
    point = BoundPoint(rows=8, call_s=0.016, rows_per_s=500.0)
    found = made(cases=[case], bound=made_bound().model_copy(update={"points": [point]}))
    assert share_of_bound(found, case) == pytest.approx(0.8)


def test_the_csv_has_a_line_for_every_load_and_round(tmp_path):
    """Flat columns with units in their names; empty where nothing is known; text cannot become a formula."""
    found = made(peers=("fastapi",), gpu=True)
    found = found.model_copy(update={"model": found.model.model_copy(update={"name": "=1+1"})})
    report.write(found, tmp_path)
    lines = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert len(lines) == sum(len(case.rounds) for case in found.cases)
    first, ours = lines[0], found.cases[0].rounds[0]
    assert ours.latency_ms
    assert list(first) == [
        *("made_at", "model", "version", "protocol", "contender", "loop", "connections", "rate_per_s", "round", "seconds"),
        *("offered", "requests", "in_time", "rows", "requests_per_s", "rows_per_s", "errors", "errors_by_kind"),
        *("mean_ms", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms", "sent_bytes", "received_bytes"),
        *("client_busy", "machine_busy", "server_cpu_s", "server_rss_bytes", "server_processes"),
        *("gpus", "gpu_utilisation", "gpu_power_w", "gpu_memory_bytes"),
        *("decode_ms", "queue_ms", "infer_ms", "encode_ms", "client_ms", "rows_per_call"),
    ]
    assert (first["model"], first["contender"], first["round"], first["rate_per_s"]) == ("'=1+1", OURS, "1", "")
    assert float(first["p99_ms"]) == ours.latency_ms.p99
    assert float(first["requests_per_s"]) == ours.requests_per_s
    assert first["gpu_power_w"] == "342.5"
    assert {line["infer_ms"] for line in lines if line["contender"] == "fastapi"} == {""}


def test_the_schema_in_the_docs_is_that_of_the_code():
    """`python -m bench.report.schema > docs/results.schema.json` after every change of bench/results.py."""
    assert (DOCS / "results.schema.json").read_text() == schema.schema()


def test_results_are_valid_by_the_schema():
    """What is written can be checked by anybody; unknown keys are refused."""
    document = json.loads((DOCS / "results.schema.json").read_text())
    checker = jsonschema.Draft202012Validator(document)
    written_down = json.loads(made(gpu=True).model_dump_json())
    checker.validate(written_down)
    assert not checker.is_valid({**written_down, "surprise": 1})
    assert Results.model_validate(written_down) == made(gpu=True)


def test_importing_the_report_imports_no_plotting():
    """`stateserve --help` stays fast: matplotlib is imported when a report is written."""
    program = "import sys, bench.compare, bench.report.page, bench.report.rows; print('matplotlib' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=DOCS.parent, text=True) == "False\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12345.6, "12,346"),
        (9.996, "10.0"),
        (0.0034, "0.00340"),
        (28.0, "28"),
        (-4.212, "-4.21"),
        (1e9, "1,000,000,000"),
    ],
)
def test_numbers_have_three_digits_and_no_exponent(value, text):
    """Never fewer than the whole number has."""
    assert units.rounded(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.00001, "< 0.01 %"), (0.0026, "0.26 %"), (0.784, "78 %"), (0.999, "> 99 %"), (1.08, "108 %")],
)
def test_a_share_is_never_told_as_none_or_all_where_it_is_not(share, text):
    """One failure in a million is not 0 %."""
    assert units.percent(share) == text
