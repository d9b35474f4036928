"""The page at /ui in a real Chromium: what a person sees, with a pointer, a keyboard, a phone; and that it asks no other host."""

import contextlib
import functools
import io
import json
import re
import shutil
import subprocess
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from fuzz import raw_models
from onnx import TensorProto, helper
from PIL import Image

from artifact.signature import Dim, Signature, TensorSpec

pytestmark = pytest.mark.browser

sync_api = pytest.importorskip("playwright.sync_api")
WAIT_MS = 20_000
HOSTILE_NAME = "<img src=x onerror=alert(1)>"
LONG_NAME = "a class whose name is long enough that it would push everything else off a narrow screen " * 3
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory, classes_artifact, columns_artifact):
    root = raw_models.write_repository(tmp_path_factory.mktemp("raw"), ("pictures", "words", "pairs", "rows"))
    for place, artifact in (("classes/1", classes_artifact), ("columns/1", columns_artifact), ("columns/2", columns_artifact)):
        shutil.copytree(artifact, root / place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_models, "LABELS", (HOSTILE_NAME, LONG_NAME, "</script>"))
        raw_models.write_artifact(root / f"{HOSTILE_NAME} & co" / "1", raw_models.MODELS["pictures"])
    with start_server(root, "--model-settings", json.dumps({"columns": {"version_policy": "all"}})) as running:
        yield running


@pytest.fixture(scope="module")
def columns_artifact(write_artifact, tmp_path_factory):
    """A model of grey pictures, 8 x 8, that declares no operations: the mean of each column."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["image", "axes"], ["columns"], keepdims=0)],
        "columns",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("columns", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    signature = Signature(
        (TensorSpec("image", "float32", ("batch", 1, 8, 8), (0, 16)),),
        (TensorSpec("columns", "float32", ("batch", 8)),),
        {"batch": Dim(1, 8)},
    )
    inputs = {"image": np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8) / 4}
    return write_artifact(tmp_path_factory.mktemp("columns") / "columns", signature, {"onnx": model}, inputs)


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path is not None, "there is no Chromium: apt-get install chromium"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, server):
    """A function that opens the page; what it must never do is looked at when the test ends."""
    contexts, wrong = [], []

    def opened(model="pictures", tells="status of 4", **options):
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: wrong.append(f"uncaught: {error}"))
        page.on("console", lambda message: wrong.append(message.text) if is_wrong(message, tells) else None)
        page.on("request", lambda request: wrong.append(request.url) if leaves(request.url, server) else None)
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.goto(f"{server.url}/ui/#{quote(model)}")
        page.wait_for_selector("#signature td")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def is_wrong(message, tells):
    """The browser notes an answer that is an error, too; and what the test makes it tell."""
    return message.type in {"error", "warning"} and not re.search(rf"status of 4\d\d|{tells}", message.text)


def leaves(url, server):
    parts = urlsplit(url)
    return parts.scheme not in {"data", "blob"} and parts.netloc != urlsplit(server.url).netloc


def picture(kind="PNG", colour=(200, 30, 30)):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, kind)
    return file.getvalue()


def choose(page, kind):
    page.check(f"input[value={kind}]", force=True)


def ask(page):
    """Asks, and returns what the page says in a few words."""
    page.click("#ask")
    return answered(page)


def refused(page):
    """Asks, and returns the error that the page shows."""
    page.click("#ask")
    page.wait_for_selector("#error:not([hidden])")
    return page.inner_text("#error")


def stroke(page, *points):
    """A stroke of the pointer; points are in parts of the drawing's width and height."""
    box = page.locator("#canvas").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def upload(page, data, name="red.png", mime="image/png"):
    page.set_input_files("#file", {"name": name, "mimeType": mime, "buffer": data})


def answered(page):
    page.wait_for_selector("#answer[aria-busy=false] #result .row")
    return page.inner_text("#summary")


def test_a_picture_is_uploaded_and_answered(open_page, server):
    """A picture's classes are bars with names and numbers, the same as curl's; the time is split, and snippets are there."""
    page = open_page()
    upload(page, picture())
    ask(page)
    expected = server.predict("pictures", picture(), headers={"content-type": "image/png"}).json()["predictions"][0]

    names = page.locator(".bars .name").all_inner_texts()
    numbers = [float(text) for text in page.locator(".bars .number").all_inner_texts()]
    assert names == [entry["label"] for entry in expected]
    assert numbers == pytest.approx([entry["probability"] for entry in expected], rel=1e-3)
    assert page.locator("#time-legend dt").all_inner_texts() == ["decode", "queue", "infer", "encode"]
    assert page.inner_text("#curl") == (
        f"curl -H 'Content-Type: image/png' \\\n  --data-binary @red.png \\\n  {server.url}/predictions/pictures"
    )
    assert 'open("red.png", "rb").read()' in page.inner_text("#python")


def test_a_picture_is_dropped_anywhere_or_pasted(open_page):
    """A file that is dropped beside its place, or pasted, is taken; the browser does not leave the page to show it."""
    page = open_page()
    for event, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(HANDED_OVER, {"event": event, "holder": holder, "bytes": list(picture()), "name": f"{event}.png"})
        assert page.inner_text("#drop-text").startswith(f"{event}.png, ")
    assert ask(page)


HANDED_OVER = """({event, holder, bytes, name}) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
  const made = {drop: DragEvent, paste: ClipboardEvent}[event];
  document.querySelector("h2").dispatchEvent(new made(event, {[holder]: data, bubbles: true, cancelable: true}));
}"""


def test_a_drawing_is_a_picture(open_page):
    """What is drawn with the pointer is answered as the PNG that the snippets name; cleared, there is nothing to ask."""
    page = open_page()
    choose(page, "draw")
    stroke(page, (0.2, 0.2), (0.8, 0.8))

    assert ask(page)
    assert "@drawing.png" in page.inner_text("#curl")
    page.click("#clear")
    assert refused(page) == "There is no drawing yet."
    assert page.is_hidden("#snippets")


@pytest.mark.parametrize(("x", "column"), [(0.19, "1"), (0.81, "6")])
def test_a_drawing_becomes_the_tensor_of_a_model_without_preprocess(open_page, x, column):
    """A tensor that looks like a picture can be drawn: in the model's range, black its low end, white its high end."""
    page = open_page("columns")
    choose(page, "draw")
    stroke(page, (x, 0), (x, 1))
    best, _, number = ask(page).partition(",")[0].partition(": ")

    assert best == column
    assert 8 < float(number) <= 16
    assert "declares no preprocess: the page scales the picture to 8 \u00d7 8" in page.inner_text("#note")
    page.check("#dark-ink")
    assert not ask(page).startswith(f"{column}: ")


def test_json_begins_with_a_body_that_the_model_takes(open_page):
    """Of every model; values have the names of their classes, or their places, and negative ones go to the other side."""
    for model in ("pictures", "words", "pairs", "rows", "columns"):
        page = open_page(model)
        choose(page, "json")
        assert ask(page)
    assert sorted(page.locator(".bars .name").all_inner_texts()) == list("01234567")
    page = open_page("classes")
    page.fill("#json", '{"inputs": {"x": [[1, -3, 0.5, 2, -1]]}}')
    assert ask(page).startswith("dog: 2,")
    assert page.locator(".bars .name").all_inner_texts() == ["dog", "ant", "cat", "emu", "bee"]
    assert page.locator(".fill.below").count() == 2
    left, right = (page.locator(".fill").nth(place).bounding_box() for place in (4, 0))
    assert left["x"] + left["width"] == pytest.approx(right["x"], abs=1)
    program = page.inner_text("#python")
    assert "json.dumps({" in program
    assert program.count("-3") == 1


def test_a_sentence_is_typed(open_page, server):
    """A text is answered, and its snippets are lines that can be run: the shell's quotes are right."""
    page = open_page("words")
    page.fill("#text", "it's a sentence, isn't it? \U0001f642 true")
    page.keyboard.press("Control+Enter")
    answered(page)

    assert r"it'\''s a sentence, isn'\''t it?" in page.inner_text("#curl")
    program = page.inner_text("#python").replace("print(json.load(urllib.request.urlopen(request)))", "sent = request")
    made = {}
    exec(compile(program, "snippet", "exec"), made)
    assert json.loads(made["sent"].data) == {"inputs": {"text": ["it's a sentence, isn't it? \U0001f642 true"]}}
    assert server.predict("words", made["sent"].data).status_code == 200
    sent = subprocess.run(["bash", "-c", page.inner_text("#curl")], capture_output=True, check=True, timeout=60)
    assert json.loads(sent.stdout)["model_name"] == "words"


def test_two_texts_and_rows_have_fields(open_page):
    """A pair has two fields, a row one for each column; what is empty is missing, and what is no number is not sent."""
    page = open_page("pairs")
    page.fill("#text", "a sentence")
    page.fill("#text-second", "another")
    assert ask(page)
    page = open_page("rows")
    assert page.get_attribute("[name=age]", "placeholder") == "0 if empty"
    page.select_option("[name=colour]", label="missing: red")
    assert ask(page)
    assert '{"age":null,"colour":null}' in page.inner_text("#curl")
    page.focus("[name=age]")
    page.keyboard.type("4e")
    assert refused(page).startswith("age: ")
    page.fill("[name=age]", "41")
    page.select_option("[name=colour]", label="blue")
    assert ask(page)


def test_errors_are_shown_as_the_server_tells_them(open_page):
    """A file that is no picture: status, type and message; JSON that is none: the same. The next good answer takes them away."""
    page = open_page()
    upload(page, b"not a picture", "x.png")
    assert re.match(r"4\d\d BadImage: ", refused(page))
    upload(page, picture())
    ask(page)
    assert page.is_hidden("#error")
    choose(page, "json")
    page.fill("#json", "{")
    assert "400 BadRequest: the body is not JSON" in refused(page)


def test_a_server_that_does_not_answer_is_told(open_page):
    """Where the server is gone, the page says so, and goes on when it is back; a question that takes long can be stopped."""
    page = open_page("words", tells="ERR_FAILED")
    page.route("**/predictions/words*", lambda route: route.abort())
    assert refused(page).startswith("The server cannot be reached")
    page.unroute("**/predictions/words*")
    held = []
    page.route("**/predictions/words*", lambda route: held.append(route))  # noqa: PLW0108 - playwright looks at its signature
    page.click("#ask")
    page.click("#stop")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error") == "Stopped: the answer was not waited for."
    assert page.evaluate("document.activeElement.id") == "ask"
    page.unroute("**/predictions/words*")
    assert ask(page)
    for route in held:
        with contextlib.suppress(sync_api.Error):  # it was stopped
            route.abort()


def test_names_are_text_and_never_markup(open_page):
    """Names of a model, of classes and of a file that are markup are shown as they are, and run nothing, however long."""
    page = open_page(f"{HOSTILE_NAME} & co", viewport={"width": 360, "height": 740})
    upload(page, picture(), f"{HOSTILE_NAME}.png")
    page.check("#tensors")
    ask(page)
    page.uncheck("#tensors")
    ask(page)

    assert page.evaluate("document.querySelector('#model').selectedOptions[0].text") == f"{HOSTILE_NAME} & co"
    assert f"{HOSTILE_NAME}.png" in page.inner_text("#drop-text")
    assert set(page.locator(".bars .name").all_text_contents()) <= {HOSTILE_NAME, LONG_NAME, "</script>"}
    assert page.locator("img").count() == 1  # the preview
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_markup_is_refused_by_the_browser_too(open_page):
    """The policy forbids to make markup of text: even a mistake in the page would not let a name run."""
    page = open_page(tells="TrustedHTML")

    assert page.evaluate(MARKUP) == "TypeError"


MARKUP = """() => {
  try { document.body.innerHTML = "<b>"; return "taken"; } catch (error) { return error.name; }
}"""


def test_all_forms_of_answers_are_shown(open_page):
    """Rows, boxes, embeddings, nested numbers, nothing at all: none leaves the page broken, or as long as the answer is."""
    page = open_page("words")
    answers = {
        "boxes": [[{"box": [1, 2, 30.5, 40], "score": 0.75, "label": "cat", "index": 2}]],
        "none": [[]],
        "embedding": [[(-1) ** place * place / 768 for place in range(768)]],
        "nested": [[[0.5] * 300] * 300],
        "several": [{"a": [0.25, 0.75], "b": 3}, {"a": [None, 0.5], "b": "text"}],
        "many": [{"label": HOSTILE_NAME, "index": 0, "probability": 0.5}] * 200,
    }
    shown = {}
    for name, rows in answers.items():
        page.route("**/predictions/words*", functools.partial(sync_api.Route.fulfill, json={"predictions": rows}))
        page.fill("#text", name)
        page.click("#ask")
        page.wait_for_function("name => document.querySelector('#curl').textContent.includes(name)", arg=name)
        answered(page)
        shown[name] = page.inner_text("#result")
        page.unroute("**/predictions/words*")

    assert shown["boxes"].split() == ["cat", "[1,", "2,", "30.50,", "40]", "0.7500"]
    assert "none" in shown["none"]
    assert "the 10 largest of 768" in shown["embedding"]
    assert len(shown["nested"]) < 25_000
    assert "not a number" in shown["several"]
    assert "and 192 more rows: see the body" in shown["many"]


def test_the_page_works_below_a_prefix(open_page, server):
    """Behind a proxy that serves it as /models/…, all that the page asks for stands below that prefix, too."""
    page = open_page("words")
    asked = []
    page.on("request", lambda request: asked.append(urlsplit(request.url).path))
    page.route("**/models/**", lambda route: route.continue_(url=route.request.url.replace("/models", "", 1)))
    page.goto(f"{server.url}/models/ui/#words")
    page.wait_for_selector("#signature td")
    page.fill("#text", "a sentence")
    assert ask(page)
    assert f"{server.url}/models/predictions/" in page.inner_text("#curl")
    assert {path for path in asked if not path.startswith("/models/")} == set()


def test_versions_are_chosen(open_page):
    """Where several versions serve, one can be asked by its number; the address of the page tells which."""
    page = open_page("columns")
    choose(page, "json")
    assert "by version 2" in ask(page)
    page.select_option("#version", "1")
    sync_api.expect(page.locator("#json-path")).to_have_text("POST /predictions/columns/1")
    assert page.url.endswith("#columns/1")
    assert "by version 1" in ask(page)


def test_a_model_that_comes_later_is_listed(open_page):
    """Models that are loaded while the page is open can be chosen; one that is unloaded gives way to another."""
    page = open_page()
    page.route("**/v2/models", lambda route: route.fulfill(json={"models": ["rows", "words"]}))
    sync_api.expect(page.locator("#model")).to_have_value("rows", timeout=WAIT_MS)

    assert page.locator("#model option").all_text_contents() == ["rows", "words"]
    assert page.locator("#kinds label").all_inner_texts() == ["Row", "JSON"]


def test_snippets_are_copied(open_page, server):
    """The button puts the lines onto the clipboard, and says so; where browsers have none they are selected."""
    page = open_page("words")
    ask(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
    page.click("[data-copy=python]")
    sync_api.expect(page.locator("[data-copy=python]")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.inner_text("#python")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")  # as without https
    page.click("[data-copy=curl]")
    sync_api.expect(page.locator("#copied")).to_have_text("It is selected: copy it with Ctrl + C.")
    assert page.evaluate("String(getSelection())").startswith("curl -H")


def test_the_live_view_moves(open_page, server):
    """Requests show in the live view within its next looks at the metrics, with their latency and rows per call."""
    page = open_page()
    sync_api.expect(page.locator("#live-rate")).to_have_text("0.0", timeout=WAIT_MS)
    for _ in range(20):
        server.predict("pictures", picture(), headers={"content-type": "image/png"})
    sync_api.expect(page.locator("#live-rate")).to_have_text(re.compile(r"^(?!0\.)\d"), timeout=WAIT_MS)

    assert re.fullmatch(r"[\d.]+ .s · [\d.]+ .s", page.inner_text("#live-latency").replace("ms", "µs"))
    assert float(page.inner_text("#live-rows")) >= 1
    assert page.inner_text("#peak-latency").startswith("peak ")
    assert page.locator("#chart-latency path").count() == 2
    assert page.get_attribute("#chart-rate path", "d").startswith("M")


def test_everything_works_by_keyboard(open_page):
    """With Tab, arrows, Space and Enter alone: the model, the kind of input, a drawing, and the answer."""
    page = open_page()
    page.focus("#model")
    page.keyboard.press("Tab")  # the API's address
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.value") == "picture"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.value") == "draw"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "canvas"
    page.keyboard.press(" ")
    assert page.inner_text("#pen") == "Pen down"
    for _ in range(8):
        page.keyboard.press("ArrowDown")
    page.keyboard.press(" ")
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "ask"
    page.keyboard.press("Enter")
    assert answered(page)
    assert page.evaluate("document.activeElement.id") == "ask"  # the focus stays while the server is asked
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for _ in range(3):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Backspace")
    assert page.inner_text("#pen") == "Pen up"
    page.keyboard.press("Control+Enter")
    sync_api.expect(page.locator("#error")).to_have_text("There is no drawing yet.")


def test_nothing_moves_by_itself(open_page):
    """While the page loads and the live view runs nothing shifts, but for what a person does."""
    page = open_page("columns")
    page.evaluate(SHIFTS)
    sync_api.expect(page.locator("#live-rate")).to_have_text("0.0", timeout=WAIT_MS)

    assert page.evaluate("shifted") < 0.02


SHIFTS = """() => {
  window.shifted = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
  }).observe({type: "layout-shift", buffered: true});
}"""


@pytest.mark.parametrize("width", [320, 768, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_every_width_and_scheme(open_page, width, scheme):
    """Nothing is wider than the window, before and after an answer, and text stands out from its ground (WCAG AA: 4.5)."""
    page = open_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    upload(page, picture())
    page.click("#ask")
    answered(page)

    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert min(page.evaluate(CONTRASTS).values()) >= 4.5


CONTRASTS = """() => {
  const channel = (value) => (value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([red, green, blue]) => 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  for (const element of document.querySelectorAll("h1, h2, h3, p, button, label, a, dt, dd, td, th, pre, .name, .number")) {
    if (!element.checkVisibility() || !element.innerText.trim() || element.className === "skip") continue;
    const [one, other] = [luminance(numbers(getComputedStyle(element).color)), luminance(ground(element))];
    found[element.outerHTML.slice(0, 80)] = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  }
  return found;
}"""


def test_controls_have_names(open_page):
    """Every control has a name that a screen reader can say, and every picture a text or none at all."""
    page = open_page()
    nameless = page.evaluate("""() => [...document.querySelectorAll("input, select, textarea, button")].filter((control) =>
        !(control.labels?.length || control.innerText.trim() || control.getAttribute("aria-label"))).map((one) => one.id)""")

    assert nameless == []
    assert page.evaluate("document.documentElement.lang") == "en"
