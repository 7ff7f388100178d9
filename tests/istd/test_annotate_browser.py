"""The annotation page in a real browser: Debian's chromium, without a window."""

from __future__ import annotations

import csv
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from istd.annotate import AnnotationServer, AnnotationSession, to_png
from istd.annotate import point_file as point_file_module
from istd.data import SyntheticDataset, open_dataset
from istd.errors import WriteError

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (the extra `dev`)")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::istd.data.DataWarning")
NAMES = ["frame1", "frame2", "frame9", "frame10"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome")
    program, driver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium with chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "window-size=1100,750",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four synthetic images, the second with 16 bits."""
    source = SyntheticDataset(4, 0, 0, size=(48, 64), seed=5)
    (tmp_path / "images").mkdir()
    for i, (name, own) in enumerate(zip(NAMES, source.names, strict=True)):
        image = source.read(own).image
        cv2.imwrite(
            str(tmp_path / "images" / f"{name}.png"), image.astype(np.uint16) * 7 if i == 1 else image
        )
    return tmp_path


@pytest.fixture
def open_page(browser: Any, folder: Path) -> Iterator[Callable[[], Page]]:
    """A function that serves the folder and opens its page."""
    started: list[tuple[AnnotationServer, threading.Thread]] = []

    def start() -> Page:
        served = AnnotationServer(AnnotationSession(open_dataset(folder)))
        thread = threading.Thread(target=served.serve_forever, args=(0.02,))
        thread.start()
        started.append((served, thread))
        return Page(browser, served, folder)

    yield start
    browser.get("about:blank")
    for served, thread in started:
        served.shutdown()
        thread.join()
        served.server_close()


class Page:
    """The page as a person uses it: by the mouse at image pixels, by keys, and by looking."""

    def __init__(self, chrome: Any, server: AnnotationServer, folder: Path) -> None:
        self.chrome = chrome
        self.folder = folder
        self.server = server
        chrome.get_log("browser")
        chrome.get(server.url)
        self.wait_for_image(None)

    def until(self, true: Callable[[], object]) -> None:
        end = time.monotonic() + 60
        while not true():
            assert time.monotonic() < end, f"waited in vain; the page says: {self.text('notice')!r}"
            time.sleep(0.02)

    def wait_for_image(self, name: str | None) -> None:
        body = "return [document.body.dataset.state, document.body.dataset.image]"
        self.until(lambda: self.chrome.execute_script(body)[0] == "ready")
        if name is not None:
            self.until(lambda: self.chrome.execute_script(body) == ["ready", name])
        self.chrome.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def wait_until_saved(self) -> None:
        self.until(lambda: self.text("saved") == "Saved")

    def text(self, name: str) -> str:
        return self.chrome.execute_script("return document.getElementById(arguments[0]).textContent", name)

    def mouse_at(self, y: int, x: int) -> tuple[int, int]:
        """Where the middle of an image pixel is in the window."""
        left, top, zoom = self.chrome.execute_script(
            "const stage = document.getElementById('stage'), box = stage.getBoundingClientRect();"
            "const {left, top, zoom} = stage.dataset; return [box.left + +left, box.top + +top, +zoom]"
        )
        return round(left + (x + 0.5) * zoom), round(top + (y + 0.5) * zoom)

    def colour(self, y: int, x: int) -> list[int]:
        """Red, green and blue on the screen in the middle of an image pixel."""
        return self.chrome.execute_script(
            "const canvas = document.getElementById('picture'), box = canvas.getBoundingClientRect();"
            "const at = [arguments[0] - box.left, arguments[1] - box.top, 1, 1];"
            "return [...canvas.getContext('2d').getImageData(...at).data].slice(0, 3)",
            *self.mouse_at(y, x),
        )

    def act(self) -> Any:
        return ActionChains(self.chrome, duration=0)

    def move(self, y: int, x: int) -> Any:
        chain = self.act()
        chain.w3c_actions.pointer_action.move_to_location(*self.mouse_at(y, x))
        return chain

    def click(self, y: int, x: int) -> None:
        self.move(y, x).click().perform()

    def keys(self, *keys: str) -> None:
        self.act().send_keys(*keys).perform()

    def wheel(self, y: int, x: int, notches: int) -> None:
        chain = self.act()
        for _ in range(abs(notches)):
            chain.w3c_actions.wheel_action.scroll(*self.mouse_at(y, x), 0, -100 if notches > 0 else 100)
        chain.perform()
        self.wait_for_image(None)

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        chain = self.move(*start)
        chain.w3c_actions.pointer_action.pointer_down()
        chain.w3c_actions.pointer_action.move_to_location(*self.mouse_at(*end))
        chain.w3c_actions.pointer_action.pointer_up()
        chain.perform()

    def rows(self) -> list[tuple[str, str, str]]:
        """The saved file, once the page says that it is saved."""
        self.wait_until_saved()
        path = self.folder / "points.csv"
        if not path.exists():
            return []
        with path.open(newline="") as stream:
            return [(row["name"], row["y"], row["x"]) for row in csv.DictReader(stream)]


OpenPage = Callable[[], Page]


def test_clicks_hit_exactly_the_pixel(open_page: OpenPage, folder: Path) -> None:
    page = open_page()
    assert page.text("name") == "frame1"
    page.click(20, 31)
    assert page.rows() == [("frame1", "20", "31")]
    for y, x in ((0, 0), (47, 63)):
        page.click(y, x)
    page.wheel(11, 50, 6)
    for y, x in ((11, 50), (11, 51), (12, 50)):
        page.click(y, x)
    expected = [(20, 31), (0, 0), (47, 63), (11, 50), (11, 51), (12, 50)]
    assert page.rows() == [("frame1", str(y), str(x)) for y, x in expected]
    assert open_dataset(folder).read("frame1").points.tolist() == [list(point) for point in expected]
    page.wheel(11, 50, -12)
    page.click(30, 5)
    assert page.rows()[-1] == ("frame1", "30", "5")
    before = page.mouse_at(30, 5)
    page.act().key_down(Keys.CONTROL).send_keys(Keys.ARROW_RIGHT).key_up(Keys.CONTROL).perform()
    page.wait_for_image("frame1")
    assert page.mouse_at(30, 5)[0] < before[0]
    page.click(30, 5)  # where a point is already: nothing new
    assert len(page.rows()) == 7
    assert page.text("status") == "7 targets"


def test_points_are_dragged_and_removed(open_page: OpenPage) -> None:
    page = open_page()
    for y, x in ((10, 10), (20, 40), (40, 20)):
        page.click(y, x)
    page.drag((20, 40), (25, 33))
    assert page.rows() == [("frame1", "10", "10"), ("frame1", "25", "33"), ("frame1", "40", "20")]
    page.move(10, 10).context_click().perform()
    assert page.rows() == [("frame1", "25", "33"), ("frame1", "40", "20")]
    page.drag((5, 5), (12, 9))  # off any point: moves the image, sets nothing
    assert page.rows() == [("frame1", "25", "33"), ("frame1", "40", "20")]
    page.click(3, 60)
    assert page.rows()[-1] == ("frame1", "3", "60")
    page.move(25, 33).perform()
    page.keys(Keys.DELETE)
    assert page.rows() == [("frame1", "40", "20"), ("frame1", "3", "60")]
    page.keys(Keys.BACKSPACE)
    assert page.rows() == [("frame1", "40", "20")]
    page.keys(Keys.BACKSPACE)
    assert page.rows() == []
    assert page.text("status") == "not annotated"


def test_keys_undo_and_reload(open_page: OpenPage) -> None:
    page = open_page()
    page.click(5, 6)
    page.click(7, 8)
    page.keys("z")
    assert page.rows() == [("frame1", "5", "6")]
    page.act().key_down(Keys.CONTROL).key_down(Keys.SHIFT).send_keys("z").key_up(Keys.SHIFT).key_up(
        Keys.CONTROL
    ).perform()
    assert page.rows() == [("frame1", "5", "6"), ("frame1", "7", "8")]
    page.keys(Keys.ARROW_RIGHT)
    page.wait_for_image("frame2")
    assert page.text("position").strip() == ""  # of the image before
    page.keys("0")
    assert page.rows()[2:] == [("frame2", "", "")]
    assert page.text("status") == "no target"
    page.keys("n")
    page.wait_for_image("frame9")
    moves = (Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    page.act().key_down(Keys.SHIFT).send_keys(*moves).key_up(Keys.SHIFT).send_keys("p").perform()
    assert page.rows()[3:] == [("frame9", "25", "34")]
    assert page.text("count") == "3 of 4"
    page.chrome.refresh()
    page.wait_for_image("frame9")
    assert page.text("status") == "1 target"
    assert page.text("count") == "3 of 4"
    page.keys("u")
    assert page.rows()[2:] == [("frame2", "", "")]
    page.keys("z")  # takes back an undo of this visit only: the reload has forgotten the earlier ones
    assert page.rows()[3:] == [("frame9", "25", "34")]
    page.keys("z")
    assert len(page.rows()) == 4


def test_another_tab_is_not_overwritten(open_page: OpenPage) -> None:
    page = open_page()
    page.click(5, 6)
    page.wait_until_saved()
    mine = page.server.session
    mine.save("frame1", [(1, 2)], 1)
    page.click(9, 9)
    page.until(lambda: "changed elsewhere" in page.text("notice"))
    assert page.rows() == [("frame1", "1", "2")]
    assert page.text("status") == "1 target"
    page.click(9, 9)
    assert page.rows() == [("frame1", "1", "2"), ("frame1", "9", "9")]
    mine.save("frame9", [], 0)
    page.click(30, 30)  # another image changed: nothing is lost, and the list shows both
    page.until(lambda: page.text("count") == "2 of 4")
    assert len(page.rows()) == 4


def test_a_full_disk_loses_nothing(open_page: OpenPage, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page()

    def full(path: Path, text: str) -> None:
        raise WriteError("the file could not be written", where=path)

    with monkeypatch.context() as patch:
        patch.setattr(point_file_module, "write_text", full)
        page.click(5, 6)
        page.until(lambda: page.text("saved") == "Not saved")
        page.click(7, 8)
    assert page.rows() == [("frame1", "5", "6"), ("frame1", "7", "8")]


def test_the_server_of_another_run_gets_nothing(open_page: OpenPage) -> None:
    page = open_page()
    mine, page.server.token = page.server.token, "another"
    page.click(5, 6)
    page.until(lambda: "earlier run" in page.text("notice"))
    assert page.text("saved") == "Not saved"
    assert not (page.folder / "points.csv").exists()
    page.server.token = mine
    assert page.rows() == [("frame1", "5", "6")]
    assert page.text("notice") == ""


def test_high_density_screens(open_page: OpenPage, browser: Any) -> None:
    size = {"width": 900, "height": 620, "deviceScaleFactor": 2.5, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page = open_page()
        width, shown = browser.execute_script(
            "const c = document.getElementById('overlay'); return [c.width, c.clientWidth]"
        )
        assert width == round(2.5 * shown)
        page.wheel(40, 60, 3)
        page.click(40, 60)
        assert page.rows() == [("frame1", "40", "60")]
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("name", ["frame1", "frame2"])
def test_what_is_shown_is_the_image(open_page: OpenPage, folder: Path, name: str) -> None:
    page = open_page()
    if name == "frame2":
        page.keys(Keys.ARROW_RIGHT)
    page.wait_for_image(name)
    page.wheel(20, 30, 5)
    values = cv2.imread(str(folder / "images" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    expected = cv2.imdecode(np.frombuffer(to_png(values), np.uint8), cv2.IMREAD_UNCHANGED)
    for y, x in ((20, 30), (18, 27), (23, 34)):
        assert page.colour(y, x) == [expected[y, x]] * 3


def test_unreadable_images_are_shown_and_skipped(open_page: OpenPage, folder: Path) -> None:
    (folder / "images" / "frame2.png").write_bytes(b"\x89PNG no image")
    page = open_page()
    page.click(5, 6)
    page.keys(Keys.ARROW_RIGHT)
    page.wait_for_image("frame2")
    assert "cannot be read" in page.text("reason")
    assert page.chrome.find_element(By.ID, "unreadable").is_displayed()
    page.keys("0")
    assert page.rows() == [("frame1", "5", "6")]
    page.chrome.find_element(By.ID, "skip").click()
    page.wait_for_image("frame9")
    page.keys("0", "n")
    page.wait_for_image("frame10")
    page.keys("0", "n")
    page.until(lambda: "All images" in page.text("notice"))
    assert page.text("count") == "3 of 4"


def test_masks_are_shown_and_taken_over(open_page: OpenPage, folder: Path) -> None:
    (folder / "masks").mkdir()
    for name in NAMES:
        mask = np.zeros((48, 64), np.uint8)
        mask[30:33, 40:45] = 255
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask)
    page = open_page()
    page.click(5, 6)
    page.keys("o")
    page.until(lambda: len(set(page.colour(31, 42))) > 1)
    assert len(set(page.colour(20, 20))) == 1
    page.keys("c")
    page.until(lambda: page.text("status") == "2 targets")
    assert page.rows() == [("frame1", "5", "6"), ("frame1", "31", "42")]


def test_help_contrast_and_a_quiet_console(open_page: OpenPage) -> None:
    page = open_page()
    page.keys("h")
    assert page.chrome.find_element(By.ID, "help").is_displayed()
    page.keys("0")  # keys do nothing behind the help
    page.keys(Keys.ESCAPE)
    page.until(lambda: not page.chrome.find_element(By.ID, "help").is_displayed())
    assert page.rows() == []
    page.keys("g")
    page.until(lambda: page.text("gamma-value") == "1.15")
    page.keys("i", "S")
    page.until(lambda: page.text("high-value") == "100.00 %")
    page.wait_for_image("frame1")
    page.click(8, 9)
    assert page.rows() == [("frame1", "8", "9")]
    # Nothing failed, and the content policy stopped nothing.
    assert [one["message"] for one in page.chrome.get_log("browser")] == []


def test_an_address_without_the_token(open_page: OpenPage) -> None:
    page = open_page()
    page.chrome.get("about:blank")
    page.chrome.get(page.server.url.partition("#")[0])
    page.until(lambda: "open the address" in page.text("notice"))
    assert page.text("name") == ""
