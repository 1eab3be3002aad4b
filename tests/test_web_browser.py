"""Facts about the page of `llava web` in Chromium. Run with -m browser; it takes Gradio, Playwright and Chromium."""

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.drawings import as_stored, encoded, exif, patches
from tests.hollow_model import write_hollow_pair
from tests.processes import LLAVA, ROOT, SCENE, files_of

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
GENEROUS = 120
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@contextmanager
def serving(home, *arguments, **environment):
    """Run `llava web` and yield its address, then end it as a user does; it must leave nothing behind."""
    (home / "tmp").mkdir(parents=True)
    own = {"HOME": str(home), "TMPDIR": str(home / "tmp"), "LLAVA_THREADS": "1", **environment}
    process = subprocess.Popen(
        [*LLAVA, "web", "--no-browser", "--port", "0", *map(str, arguments)],
        env={**os.environ, **own}, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        address = process.stdout.readline().strip()
        assert address, process.stderr.read()
        yield address
        process.send_signal(signal.SIGINT)
        assert 0 == process.wait(GENEROUS), process.stderr.read()
        assert [] == list((home / "tmp").iterdir())
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("shapes") / "home", "-m", "shapes", "-t", "0") as address:
        yield address


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """Serve a model that writes nonsense, slowly, and does not come to an end by itself."""
    files = files_of(write_hollow_pair(tmp_path_factory.mktemp("model")))
    with serving(tmp_path_factory.mktemp("slow") / "home", *files, "-t", "2", "-n", "2048") as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "apt-get install chromium"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Page:
    """One tab, and what its user sees and does in it."""

    def __init__(self, browser, address, **how):
        self.context = browser.new_context(**how)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(GENEROUS * 1000)
        self.requests, self.errors = [], []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("console", lambda said: said.type == "error" and self.errors.append(said.text))
        self.tab.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))
        self.tab.goto(address)
        self.tab.wait_for_selector("#llava-question textarea")

    def show(self, path_or_bytes, name="picture.png"):
        file = path_or_bytes
        if isinstance(file, bytes):
            file = {"name": name, "mimeType": "image/png", "buffer": file}
        self.tab.locator("#llava-picture input[type=file]").set_input_files(file)
        self.until(lambda: "×" in self.status or self.tab.locator("#llava-status .error").count())

    def type(self, question):
        line = self.tab.locator("#llava-question textarea")
        line.fill(question)
        line.press("Enter")

    def ask(self, question):
        """Ask, wait for the end of the answer, and return it."""
        before = len(self.answers())
        self.type(question)
        self.until(lambda: len(self.answers()) > before and "first word" in self.status)
        return self.answers()[-1]

    def click(self, words):
        self.tab.get_by_role("button", name=words, exact=True).last.click()

    def answers(self):
        return [text.strip() for text in self.tab.locator("#llava-chat .bot.message .prose").all_inner_texts()]

    def questions(self):
        return [text.strip() for text in self.tab.locator("#llava-chat .user.message .prose").all_inner_texts()]

    @property
    def status(self):
        return self.tab.locator("#llava-status").inner_text()

    @property
    def line(self):
        return self.tab.locator("#llava-question textarea").input_value()

    def until(self, happens):
        end = time.monotonic() + GENEROUS
        while not happens():
            assert time.monotonic() < end, (self.status, self.answers(), self.errors)
            self.tab.wait_for_timeout(100)


@pytest.fixture
def open_page(chromium):
    pages = []

    def open_page(address, **how):
        pages.append(Page(chromium, address, **how))
        return pages[-1]

    yield open_page
    for page in pages:
        assert [] == page.errors
        page.context.close()


def test_a_picture_is_uploaded_asked_about_and_read_once(shapes, open_page):
    page = open_page(shapes)
    page.show(SCENE)
    page.until(lambda: "scene.png: 640 × 400" in page.status)
    assert "red" == page.ask("What color is the circle?")
    assert "3" == page.ask("How many shapes are there?")
    assert "the picture was not read again" in page.status
    assert ["What color is the circle?", "How many shapes are there?"] == page.questions()


def test_nothing_is_asked_of_another_host(shapes, open_page):
    page = open_page(shapes)
    page.show(SCENE)
    page.ask("What color is the circle?")
    assert [] == [url for url in page.requests if not url.startswith((shapes, "data:", "blob:"))]


def test_a_question_without_a_picture_gets_a_sensible_message(shapes, open_page):
    page = open_page(shapes)
    page.type("What color is the circle?")
    page.until(lambda: "there is none yet" in page.status)
    assert ("What color is the circle?", []) == (page.line, page.answers())


def test_an_example_is_one_click_away(shapes, open_page):
    page = open_page(shapes)
    page.tab.locator("#llava-left .gallery-item, #llava-left button.gallery-item").first.click()
    page.until(lambda: "scene.png" in page.status)
    assert "red" == page.ask("What color is the circle?")


def test_retry_undo_and_clear(shapes, open_page):
    page = open_page(shapes)
    page.show(SCENE)
    page.ask("What color is the circle?")
    page.ask("How many shapes are there?")
    before = page.status
    page.click("Retry")
    page.until(lambda: "first word" in page.status != before and ["red", "3"] == page.answers())
    page.click("Undo")
    page.until(lambda: ["red"] == page.answers())
    page.until(lambda: page.line == "How many shapes are there?")
    page.click("Clear")
    page.until(lambda: [] == page.answers())
    assert "red" == page.ask("What color is the circle?")


def test_a_broken_picture_is_an_error_with_a_hint_and_takes_the_old_one_away(shapes, open_page):
    page = open_page(shapes)
    page.show(SCENE)
    page.until(lambda: "scene.png" in page.status)
    page.click("Clear")
    page.tab.get_by_label("Remove Image").click()
    page.show(Path(SCENE).read_bytes()[:900], name="cut <b>.png")
    page.until(lambda: "cut <b>.png: truncated" in page.status)
    page.type("What color is the circle?")
    page.until(lambda: "there is none yet" in page.status)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_a_picture_is_shown_upright_whatever_file_it_came_in(shapes, open_page, kind):
    page = open_page(shapes)
    page.show(encoded(as_stored(patches(), 6), kind, **({"exif": exif(6)} if kind == "JPEG" else {})), name=f"a.{kind}")
    expected = (48, 32) if kind == "JPEG" else (32, 48)
    page.until(lambda: f"{expected[0]} × {expected[1]}" in page.status)
    size = "image => image.complete && image.naturalWidth ? [image.naturalWidth, image.naturalHeight] : null"
    page.until(lambda: list(expected) == page.tab.locator("#llava-picture img").first.evaluate(size))


def test_what_the_model_sees_is_a_square(shapes, open_page):
    page = open_page(shapes)
    page.show(SCENE)
    page.tab.get_by_text("What the model sees").click()
    image = page.tab.locator("#llava-seen img").first
    page.until(lambda: image.evaluate("image => image.naturalWidth === image.naturalHeight && image.naturalWidth > 0"))


def test_markup_in_a_question_or_an_answer_is_shown_and_does_nothing(shapes, open_page):
    page = open_page(shapes)
    page.show(SCENE)
    hostile = '<img src=x onerror="alert(1)"><script>alert(2)</script> [good](http://evil.example) ![x](http://evil.example/y.png)'
    page.ask(f"What color is the circle? {hostile}")
    assert hostile in page.questions()[0]
    chat = page.tab.locator("#llava-chat .message")
    assert 0 == chat.locator("img, script").count()
    assert {"http://evil.example", "http://evil.example/y.png"} >= set(chat.locator("a").all_inner_texts())
    assert [] == [url for url in page.requests if "evil" in url]


def assert_kept(page):
    """Download the conversation; it must name its picture and its model."""
    texts = {}
    for kind in ("md", "json"):
        with page.tab.expect_download() as started:
            page.tab.locator(f"#llava-{kind}").click()
        texts[started.value.suggested_filename] = Path(started.value.path()).read_text("utf-8")
    assert {"chat.md", "chat.json"} == set(texts)
    assert "*Picture: scene.png*" in texts["chat.md"]
    assert "shapes" == json.loads(texts["chat.json"])["model"]


def test_the_conversation_can_be_downloaded(shapes, open_page):
    page = open_page(shapes)
    page.show(SCENE)
    page.ask("What color is the circle?")
    page.tab.get_by_text("Keep this conversation").click()
    assert_kept(page)
    page.tab.get_by_label("Remove Image").click()
    page.show(SCENE)  # the same one: the conversation goes on
    assert_kept(page)


def test_an_answer_can_be_stopped_and_keeps_its_words(slow, open_page):
    page = open_page(slow)
    page.show(SCENE)
    page.type("Describe this picture.")
    page.until(lambda: page.answers() and page.answers()[0])
    page.tab.locator("#llava-question button.stop-button").click()
    page.until(lambda: page.status.endswith("stopped"))
    assert page.answers()[0]
    page.tab.wait_for_selector("#llava-question button.submit-button")


def test_who_comes_second_sees_that_he_waits(slow, open_page):
    first, second = open_page(slow), open_page(slow)
    for page in (first, second):
        page.show(SCENE)
        page.until(lambda page=page: "scene.png" in page.status)
    first.type("Describe this picture.")
    first.until(lambda: first.answers() and first.answers()[0])
    second.type("Describe this picture.")
    second.until(lambda: "waiting: 1 question comes first" in second.status)
    first.context.close()
    second.until(lambda: second.answers() and second.answers()[0])
    second.tab.locator("#llava-question button.stop-button").click()
    second.until(lambda: second.status.endswith("stopped"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("how", [PHONE, {"viewport": {"width": 1280, "height": 860}}], ids=["phone", "desktop"])
def test_the_page_fits_its_window_in_light_and_dark(shapes, open_page, how, scheme):
    page = open_page(shapes, color_scheme=scheme, **how)
    page.show(SCENE)
    assert "red" == page.ask("What color is the circle?")
    wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert 0 == page.tab.evaluate(wider)
    is_dark_ink = "Number(getComputedStyle(document.querySelector('#llava-title h1')).color.match(/\\d+/)[0]) < 128"
    assert (scheme == "light") == page.tab.evaluate(is_dark_ink)
    page.click("Light / dark")
    page.until(lambda: (scheme == "dark") == page.tab.evaluate(is_dark_ink))
    box = {name: page.tab.locator(name).bounding_box() for name in ("#llava-picture", "#llava-chat", "#llava-more")}
    if how is PHONE:
        assert box["#llava-picture"]["y"] < box["#llava-chat"]["y"] < box["#llava-more"]["y"]
    else:
        assert box["#llava-picture"]["x"] < box["#llava-chat"]["x"]


def test_a_password_is_asked_for_once(chromium, tmp_path):
    arguments = ("-m", "shapes", "-t", "0", "--password-env", "SECRET", SCENE)
    with serving(tmp_path / "home", *arguments, SECRET="open sesame") as address:
        context = chromium.new_context()
        tab = context.new_page()
        tab.set_default_timeout(GENEROUS * 1000)
        tab.goto(address)
        for password, shows in (("wrong", "text=That is not it."), ("open sesame", "#llava-picture img")):
            tab.get_by_label("The password of this llava").fill(password)
            tab.get_by_role("button", name="Open").click()
            tab.wait_for_selector(shows)
        tab.locator("#llava-question textarea").fill("What color is the circle?")
        tab.locator("#llava-question textarea").press("Enter")
        tab.wait_for_selector("#llava-chat .bot.message >> text=red")
        context.close()
