"""The page at /ui in a real Chromium: what a person sees, with a pointer, a keyboard, a phone; and that it asks no other host."""

import io
import json
import re
import shutil
from urllib.parse import urlsplit

import pytest
from fuzz import raw_models
from PIL import Image

pytestmark = pytest.mark.browser

sync_api = pytest.importorskip("playwright.sync_api")
WAIT_MS = 20_000
HOSTILE_NAME = "<img src=x onerror=alert(1)>.png"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory, mlp_artifact, classes_artifact):
    root = raw_models.write_repository(tmp_path_factory.mktemp("raw"))
    for name, artifact in (("mlp", mlp_artifact), ("classes", classes_artifact)):
        shutil.copytree(artifact, root / name / "1")
    with start_server(root) as running:
        yield running


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

    def opened(model="pictures", **options):
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: wrong.append(f"uncaught: {error}"))
        page.on("console", lambda message: wrong.append(message.text) if is_wrong(message) else None)
        page.on("request", lambda request: wrong.append(request.url) if leaves(request.url, server) else None)
        page.goto(f"{server.url}/ui#{model}")
        page.wait_for_selector("#signature td")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def is_wrong(message):
    """An answer that is an error is shown on the page; the browser notes it too."""
    return message.type in {"error", "warning"} and not re.search(r"status of 4\d\d", message.text)


def leaves(url, server):
    parts = urlsplit(url)
    return parts.scheme not in {"data", "blob"} and parts.netloc != urlsplit(server.url).netloc


def picture(kind="PNG", colour=(200, 30, 30)):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, kind)
    return file.getvalue()


def upload(page, data, name="red.png", mime="image/png"):
    page.set_input_files("#file", {"name": name, "mimeType": mime, "buffer": data})


def answered(page):
    page.wait_for_selector("#result .row")
    return page.inner_text("#summary")


def test_a_picture_is_uploaded_and_answered(open_page, server):
    """A picture's classes are bars with names and numbers, the same as curl's; the time is split, and snippets are there."""
    page = open_page()
    upload(page, picture())
    page.click("#ask")
    answered(page)
    expected = server.predict("pictures", picture(), headers={"content-type": "image/png"}).json()["predictions"][0]

    names = page.locator(".bars .name").all_inner_texts()
    numbers = [float(text) for text in page.locator(".bars .number").all_inner_texts()]
    assert names == [entry["label"] for entry in expected]
    assert numbers == pytest.approx([entry["probability"] for entry in expected], rel=1e-3)
    assert page.locator("#time-legend dt").all_inner_texts() == ["decode", "queue", "infer", "encode", "network and browser"]
    assert f"curl -H 'Content-Type: image/png' --data-binary @'red.png' '{server.url}/predictions/pictures'" == page.inner_text(
        "#curl"
    )
    assert 'open("red.png", "rb").read()' in page.inner_text("#python")


def test_a_drawing_is_a_picture(open_page):
    """What is drawn with the pointer is answered; cleared, there is nothing to ask."""
    page = open_page()
    page.check("input[value=draw]", force=True)
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 200, steps=5)
    page.mouse.up()
    page.click("#ask")

    assert answered(page)
    page.click("#clear")
    page.click("#ask")
    assert page.inner_text("#error") == "There is no drawing yet."


def test_a_drawing_becomes_the_tensor_of_a_model_without_preprocess(open_page, server):
    """A model that takes a tensor which looks like a picture can be drawn for, and the page says whose scaling that is."""
    page = open_page("mlp")
    signature = json.loads(server.get("/v2/models/mlp/config").json()["parameters"]["signature"]["string_value"])
    kinds = page.locator("#kinds label").all_inner_texts()

    assert ("Drawing" in kinds) == (len(signature["inputs"]) == 1 and signature["inputs"][0]["shape"][1] in {16, 64, 784})
    page.check("input[value=json]", force=True)
    page.click("#ask")
    assert answered(page)


def test_a_sentence_is_typed(open_page, server):
    """A text is answered, and its snippets are lines that can be run: the shell's quotes are right."""
    page = open_page("words")
    page.fill("#text", "it's a sentence, isn't it? \U0001f642")
    page.keyboard.press("Control+Enter")
    answered(page)

    assert r"it'\''s a sentence, isn'\''t it?" in page.inner_text("#curl")
    program = page.inner_text("#python").replace("print(json.load(urllib.request.urlopen(request)))", "sent = request")
    made = {}
    exec(compile(program, "snippet", "exec"), made)
    assert json.loads(made["sent"].data) == {"inputs": {"text": ["it's a sentence, isn't it? \U0001f642"]}}
    assert server.predict("words", made["sent"].data).status_code == 200


def test_two_texts_and_rows_have_fields(open_page):
    """A pair has two fields, a row one for each column."""
    page = open_page("pairs")
    page.fill("#text", "a sentence")
    page.fill("#text-second", "another")
    page.click("#ask")
    assert answered(page)
    page = open_page("rows")
    page.fill("[name=age]", "41")
    page.select_option("[name=colour]", label="blue")
    page.click("#ask")
    assert answered(page)


def test_errors_are_shown_as_the_server_tells_them(open_page):
    """A file that is no picture: status, type and message; JSON that is none: the same. The next good answer takes them away."""
    page = open_page()
    upload(page, b"not a picture", "x.png")
    page.click("#ask")
    page.wait_for_selector("#error:not([hidden])")
    assert re.match(r"4\d\d BadImage: ", page.inner_text("#error"))
    upload(page, picture())
    page.click("#ask")
    answered(page)
    assert page.is_hidden("#error")
    page.check("input[value=json]", force=True)
    page.fill("#json", "{")
    page.click("#ask")
    page.wait_for_selector("#error:not([hidden])")
    assert "400 BadRequest: the body is not JSON" in page.inner_text("#error")


def test_names_are_text_and_never_markup(open_page):
    """A file's name that is markup is shown as it is, and runs nothing."""
    page = open_page()
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    upload(page, picture(), HOSTILE_NAME)
    page.click("#ask")
    answered(page)

    assert HOSTILE_NAME in page.inner_text("#drop-text")
    assert page.locator("img").count() == 1  # the preview


def test_the_live_view_moves(open_page, server):
    """Requests show in the live view within its next looks at the metrics, with their latency and rows per call."""
    page = open_page()
    sync_api.expect(page.locator("#live-rate")).to_have_text("0.0", timeout=WAIT_MS)
    for _ in range(20):
        server.predict("pictures", picture(), headers={"content-type": "image/png"})
    sync_api.expect(page.locator("#live-rate")).to_have_text(re.compile(r"^(?!0\.)\d"), timeout=WAIT_MS)

    assert re.fullmatch(r"[\d.]+ .s · [\d.]+ .s", page.inner_text("#live-latency").replace("ms", "µs"))
    assert float(page.inner_text("#live-rows")) >= 1
    assert page.locator("#chart-latency path").count() == 2


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
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


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
