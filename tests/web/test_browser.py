"""The pages as a person uses them, in headless Chromium."""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from clip2clap.media.audio import load_audio
from clip2clap.media.images import load_image

playwright = pytest.importorskip("playwright.sync_api")
# Not for how fast it is, which depends on what else the machine does.
playwright.expect.set_options(timeout=30_000)
CHROMIUM = shutil.which("chromium")
AXE = os.environ.get("AXE_CORE", "")
"""Path of axe.min.js of the npm package axe-core."""
SCREENSHOTS = os.environ.get("CLIP2CLAP_SCREENSHOTS", "")
"""Folder to write the documentation's screenshots to."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]
TABS = ("Image to sound", "Sound to image", "Describe", "Search", "Compare translators", "About",
        "Name it")  # fmt: skip
MEASURE = """async (address) => {
  const bytes = await (await fetch(address)).arrayBuffer();
  const audio = await new AudioContext().decodeAudioData(bytes);
  const samples = audio.getChannelData(0);
  const power = samples.reduce((sum, each) => sum + each * each, 0) / samples.length;
  return [audio.duration, Math.sqrt(power)];
}"""
SERIOUS = """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations
  .filter((each) => ["serious", "critical"].includes(each.impact))
  .map((each) => `${each.id}: ${each.nodes.map((node) => node.html).join(" ")}`)"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Page:
    """A page of the app, and the hosts that it asked."""

    def __init__(self, browser, server, **options):
        context = browser.new_context(permissions=["camera", "microphone"], **options)
        self.page = context.new_page()
        self.hosts, self.errors = set(), []
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(server.url)
        self.tab("Image to sound")

    def tab(self, name):
        self.page.get_by_role("tab", name=name).click()

    def click(self, name):
        self.page.get_by_role("button", name=name, exact=True).locator("visible=true").click()

    @property
    def status(self):
        return self.page.locator(".status [role=status] >> visible=true")

    def wait(self, text, seconds=60):
        playwright.expect(self.status).to_contain_text(text, timeout=1000 * seconds)

    def slide(self, label, value):
        # The number beside a slider has its label, too.
        field = self.page.get_by_label(label).locator("visible=true").first
        field.fill(str(value))
        field.press("Tab")

    def send(self, path, number=0):
        """Give a file to one of the tab's inputs."""
        panel = self.page.get_by_role("tabpanel").locator("visible=true")
        panel.locator("input[type=file]").nth(number).set_input_files(path)

    def uploaded(self):
        """Wait until a file is there."""
        removing = self.page.get_by_role("button", name=re.compile("Clear|Remove Image"))
        playwright.expect(removing.locator("visible=true")).to_be_visible()

    def audit(self):
        """Check for what people who cannot see, or use a mouse, would stumble over."""
        if AXE:
            self.page.evaluate(Path(AXE).read_text())
            assert self.page.evaluate(SERIOUS) == []

    def shoot(self, name):
        if SCREENSHOTS:
            self.page.wait_for_timeout(1000)
            image = load_image(self.page.screenshot(full_page=True))
            image.save(Path(SCREENSHOTS) / name, quality=80)

    def make(self, photograph):
        """Generate a second of two variations."""
        self.send(photograph)
        self.uploaded()
        self.slide("number input for Length", 1)
        self.click("Generate")
        self.wait("Done")


@pytest.fixture
def page(browser, server):
    page = Page(browser, server)
    yield page
    page.page.context.close()
    # Addresses of data and of what the page itself holds have no host.
    assert page.hosts - {""} == {urlsplit(server.url).netloc}
    assert page.errors == []


def test_a_photograph_is_uploaded_and_its_sound_is_heard_and_downloaded(page, photograph, tmp_path):
    page.audit()
    page.make(photograph)
    page.wait("2 audio files. Heard as cat")
    frame = page.page.frame_locator("iframe.result")
    first = frame.get_by_role("region", name="a-cat-1.wav")
    first.get_by_role("button", name="Play").click()
    playwright.expect(first).to_have_class("audio current playing")
    playwright.expect(first.locator(".time")).not_to_have_text("0.0 / 1.0 s")
    link = first.get_by_role("link", name="Download")
    duration, rms = link.evaluate(f"(link) => ({MEASURE})(link.href)")
    assert duration == pytest.approx(1.0, abs=0.01)
    assert rms > 0.001
    link.evaluate("(link) => link.removeAttribute('target')")
    with page.page.expect_download() as started:
        link.click()
    started.value.save_as(tmp_path / "sound.wav")
    waveform, rate = load_audio(tmp_path / "sound.wav")
    assert (len(waveform), rate) == (16_000, 16_000)
    assert float(np.sqrt(np.mean(waveform**2))) == pytest.approx(rms, rel=0.05)
    page.audit()

    page.page.get_by_text("The same on the command line").locator("visible=true").click()
    shown = page.page.get_by_text("clip2clap image-to-audio a-cat.jpg")
    playwright.expect(shown.first).to_be_visible()

    page.page.reload()
    frame = page.page.frame_locator("iframe.result")
    playwright.expect(frame.get_by_role("region", name="a-cat-1.wav")).to_be_visible()


def test_a_run_is_cancelled_and_another_one_can_begin(page, photograph):
    page.send(photograph)
    page.uploaded()
    page.slide("number input for Length", 3)
    page.page.get_by_text("More", exact=True).locator("visible=true").click()
    page.slide("number input for Denoising steps", 100)
    page.click("Generate")
    page.wait("Step")
    page.click("Cancel")
    page.wait("Cancelled")
    page.slide("number input for Denoising steps", 1)
    page.click("Generate")
    page.wait("Done")
    # Nothing is left to cancel, and a mistake is told.
    page.click("Cancel")
    page.wait("Done")
    page.page.get_by_role("button", name="Remove Image").click()
    page.click("Generate")
    page.wait("Not done.")


def test_a_click_right_after_cancelling_is_not_lost(page, photograph):
    page.send(photograph)
    page.uploaded()
    page.slide("number input for Length", 3)
    page.page.get_by_text("More", exact=True).locator("visible=true").click()
    page.slide("number input for Denoising steps", 100)
    for _ in range(3):
        page.click("Generate")
        page.wait("Step")
        page.click("Cancel")
    page.slide("number input for Denoising steps", 1)
    page.click("Generate")
    page.wait("Done")


def test_two_browsers_at_once_get_their_own_results(browser, server, page, photograph, tmp_path):
    horse = tmp_path / "horse.png"
    load_image(photograph).rotate(180).save(horse)
    other = Page(browser, server)
    for each, path in ((page, photograph), (other, horse)):
        each.send(path)
        each.uploaded()
        each.slide("number input for Length", 1)
        each.click("Generate")
    for each, name in ((page, "a-cat-1.wav"), (other, "horse-1.wav")):
        each.wait("Done")
        frame = each.page.frame_locator("iframe.result")
        playwright.expect(frame.get_by_role("region", name=name)).to_be_visible()
    other.page.context.close()


def test_sound_becomes_images_by_decoder_and_by_painting(page, recording):
    page.tab("Sound to image")
    page.audit()
    page.send(recording)
    page.uploaded()
    page.click("Generate")
    page.wait("Done: 2 images")
    page.audit()
    page.page.get_by_label("Painting").check()
    page.slide("number input for Iterations", 2)
    page.click("Generate")
    page.wait("similarity to the audio")
    page.page.reload()
    page.tab("Sound to image")
    shown = page.page.get_by_role("tabpanel").locator("img[src*=bark]").first
    playwright.expect(shown).to_be_visible()


def test_several_sounds_become_a_film_that_plays_and_is_downloaded(page, recording, tmp_path):
    page.tab("Sound to image")
    page.page.get_by_label("Film", exact=True).check()
    # The upload of one file gives way to that of several.
    panel = page.page.get_by_role("tabpanel").locator("visible=true")
    playwright.expect(panel.locator("input[type=file][multiple]")).to_have_count(1)
    playwright.expect(panel.locator("input[type=file]:not([multiple])")).to_have_count(0)
    page.send([recording, recording])
    page.uploaded()
    page.slide("number input for Frames per second", 2)
    page.slide("number input for Crossfade", 0.5)
    page.click("Generate")
    page.wait("Done: 3 frames, 1.5 s")
    film = page.page.locator("video >> visible=true")
    play = "(video) => video.play().then(() => [video.duration, video.videoWidth])"
    duration, width = film.evaluate(play)
    assert duration == pytest.approx(1.5, abs=0.1)
    assert width == 256
    page.audit()
    with page.page.expect_download() as started:
        panel.locator("a[download$='.mp4']").click()
    started.value.save_as(tmp_path / "film.mp4")
    waveform, rate = load_audio(tmp_path / "film.mp4")
    assert len(waveform) / rate == pytest.approx(1.5, abs=0.05)
    page.shoot("serve-film.webp")
    page.page.get_by_text("The same on the command line").locator("visible=true").click()
    playwright.expect(page.page.get_by_text("--film").first).to_be_visible()

    page.page.reload()
    page.tab("Sound to image")
    playwright.expect(film).to_be_visible()


def test_images_and_sounds_are_found_by_words_an_image_and_the_microphone(page, photograph):
    page.tab("Search")
    page.audit()
    page.page.get_by_label("Words", exact=True).fill("a cat")
    page.page.get_by_label("Words", exact=True).press("Tab")
    page.click("Search")
    page.wait("Done: 5 files")
    frame = page.page.frame_locator("iframe.result >> visible=true")
    playwright.expect(frame.get_by_role("heading", name="Images")).to_be_visible()
    playwright.expect(frame.locator("#image-1 a")).to_have_text("a-chelsea.jpg")
    page.audit()

    page.send(photograph)
    page.uploaded()
    page.click("Search")
    playwright.expect(frame.get_by_role("heading", level=1)).to_contain_text("a-cat.jpg")
    playwright.expect(frame.locator("#image-1 a")).to_have_text("a-chelsea.jpg")
    player = frame.locator("#audio-1 audio")
    duration = player.evaluate("(audio) => audio.play().then(() => audio.duration)")
    assert duration == pytest.approx(1.0, abs=0.01)
    page.shoot("serve-search.webp")
    page.page.get_by_role("button", name="Remove Image").click()

    page.page.get_by_label("Record audio").locator("visible=true").click()
    page.page.get_by_role("button", name="Record", exact=True).click()
    page.page.wait_for_timeout(1500)
    page.page.get_by_role("button", name="Stop", exact=True).click()
    playing = page.page.get_by_role("button", name="Play", exact=True)
    playwright.expect(playing.locator("visible=true")).to_be_visible()
    page.page.get_by_label("Audio", exact=True).locator("visible=true").check()
    page.click("Search")
    page.wait("Done: 2 files")
    page.page.get_by_text("The same on the command line").locator("visible=true").click()
    playwright.expect(page.page.get_by_text("clip2clap search").first).to_be_visible()

    page.page.reload()
    page.tab("Search")
    playwright.expect(frame.locator("#audio-2")).to_be_visible()


def test_two_translators_are_compared_blind_and_named_after_the_vote(page, server, photograph):
    page.tab("Compare translators")
    page.audit()
    better = page.page.get_by_role("button", name="Left is better")
    playwright.expect(better).to_be_disabled()
    page.send(photograph)
    page.uploaded()
    page.slide("number input for Length", 1)
    page.click("Compare")
    page.wait("Done. Listen to both")
    panel = page.page.get_by_role("tabpanel").locator("visible=true")
    names = panel.get_by_text("noisy/")
    # Only the table of votes names them, not who is where.
    playwright.expect(names).to_have_count(1)
    links = panel.locator("a[download][href*='gradio_api/file']")
    addresses = [each.get_attribute("href") for each in links.all()]
    assert [each.rsplit("/")[-1] for each in addresses] == ["left.wav", "right.wav"]
    for address in addresses:
        duration, rms = page.page.evaluate(MEASURE, address)
        assert duration == pytest.approx(1.0, abs=0.01)
        assert rms > 0.001
    page.audit()
    better.click()
    page.wait("Your vote: Left is better. Left was")
    playwright.expect(better).to_be_disabled()
    (left, right), first = next(
        (each.sides, server.service.contest.pair[0])
        for each in server.service.contest._comparisons.values()
        if each.choice == "left"
    )
    page.wait(f"Left was {left.name}, right was {right.name}")
    row = panel.get_by_role("row", name=re.compile("^Blind"))
    cells = ["1", "0", "0", "1"] if left is first else ["0", "1", "0", "1"]
    playwright.expect(row.get_by_role("cell")).to_have_text(cells)
    panel.get_by_text("The same on the command line").click()
    playwright.expect(panel.get_by_text("--translator noisy/").first).to_be_visible()
    page.audit()
    page.shoot("serve-compare.webp")

    page.page.reload()
    page.tab("Compare translators")
    playwright.expect(better).to_be_disabled()
    playwright.expect(links).to_have_count(2)


def test_the_microphone_is_recorded(page):
    page.tab("Sound to image")
    page.page.get_by_label("Record audio").locator("visible=true").click()
    page.page.get_by_role("button", name="Record", exact=True).click()
    page.page.wait_for_timeout(1500)
    page.page.get_by_role("button", name="Stop", exact=True).click()
    playing = page.page.get_by_role("button", name="Play", exact=True)
    playwright.expect(playing.locator("visible=true")).to_be_visible()
    page.click("Generate")
    page.wait("Done: 2 images")


def test_the_webcam_takes_an_image(page):
    page.page.get_by_label("Capture from camera").click()
    page.page.get_by_text("Click to Access Webcam").click()
    page.page.wait_for_function("document.querySelector('video')?.videoWidth > 0")
    page.page.get_by_role("button", name="capture photo").click()
    page.uploaded()
    page.slide("number input for Length", 1)
    page.click("Generate")
    page.wait("Done: 2 audio files")


def test_files_are_named_in_a_window_of_375_pixels_in_the_dark(
    browser, server, photograph, recording
):
    page = Page(browser, server, viewport={"width": 375, "height": 800}, color_scheme="dark")
    for tab in TABS:
        page.tab(tab)
        page.audit()
        assert page.page.evaluate("document.documentElement.scrollWidth") <= 375
    page.send([photograph, recording])
    page.uploaded()
    playwright.expect(page.page.get_by_text("bark").first).to_be_visible()
    page.click("Name")
    page.wait("Done")
    playwright.expect(
        page.page.get_by_role("cell", name=re.compile(r"^cat \d+%")).first
    ).to_be_visible()
    page.audit()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 375
    page.tab("Describe")
    page.send([photograph, recording])
    page.uploaded()
    page.click("Describe")
    page.wait("Done. The score of a keyword is how often such a keyword is right.")
    playwright.expect(
        page.page.get_by_role("cell", name=re.compile("cat")).locator("visible=true").first
    ).to_be_visible()
    playwright.expect(page.page.get_by_role("columnheader", name="Caption")).to_be_visible()
    page.audit()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 375
    page.shoot("serve-describe-narrow.webp")
    page.page.context.close()


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_an_image_is_named_aloud_and_chosen_by_speech(page, photograph, library):
    page.tab("Name it")
    page.send([library / "a coffee.jpg", photograph])
    page.uploaded()
    page.page.get_by_label("Speak the answer").check()
    page.click("Name")
    page.wait("Done")
    panel = page.page.get_by_role("tabpanel").locator("visible=true")
    answer = panel.locator("a[download='answer.wav']")
    duration, rms = page.page.evaluate(MEASURE, answer.get_attribute("href"))
    assert duration > 1
    assert rms > 0.001
    page.audit()
    page.page.get_by_label("Record audio").locator("visible=true").click()
    page.page.get_by_role("button", name="Record", exact=True).click()
    page.page.wait_for_timeout(1500)
    page.page.get_by_role("button", name="Stop", exact=True).click()
    playing = page.page.get_by_role("button", name="Play", exact=True)
    playwright.expect(playing.locator("visible=true").first).to_be_visible()
    page.click("Name")
    page.wait("The likeliest image stands first")
    playwright.expect(panel.get_by_role("rowheader").first).to_have_text("a-cat.jpg")
    page.audit()
    page.shoot("serve-speech.webp")


def test_the_keyboard_alone_is_enough(page):
    page.page.get_by_role("button", name="A cat").focus()
    page.page.keyboard.press("Enter")
    page.uploaded()
    for _ in range(60):
        page.page.keyboard.press("Tab")
        if page.page.evaluate("document.activeElement.textContent.trim()") == "Generate":
            break
    page.page.keyboard.press("Enter")
    page.wait("Done: 2 audio files. Heard as cat")
    page.shoot("serve.webp")
