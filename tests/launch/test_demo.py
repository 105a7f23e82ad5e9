"""The page in a real browser, served by the real command."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from launch.demo import main
from pipeline.config.schema import CompletionConfig
from pipeline.exports.network_folder import save_completion_network
from pipeline.networks.dam import AttentionCompletionNetwork

ROOT = Path(__file__).parents[2]
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FILL = 128  # of a network that has not been told another
# Every address that the server connects to, or asks the name of, goes to the file.
SERVER = """
import sys
def note(event, details):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print(event, details, file=open(sys.argv[1], "a"), flush=True)
sys.addaudithook(note)
from launch.demo import main
main(sys.argv[2:])
"""

needs_a_browser = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="needs chromium and chromium-driver of Debian"
)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = CompletionConfig(kind="dam", width=8)
    folder = str(tmp_path_factory.mktemp("network"))
    save_completion_network(folder, AttentionCompletionNetwork(config), config, step=1, facts={})
    return folder


class Server:
    def __init__(self, network: str, folder: Path) -> None:
        self.contacts, self.kept = folder / "contacts", folder / "kept"
        self.kept.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = ["--port", str(self.port), "--longest-side", "128", "--device", "cpu"]
        command = [sys.executable, "-c", SERVER, str(self.contacts), network, *options]
        self.process = subprocess.Popen(
            [*command, "--no-browser"], cwd=ROOT, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.kept)},
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[0]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)


@pytest.fixture
def server(network: str, tmp_path: Path) -> Iterator[Server]:
    started = Server(network, tmp_path)
    yield started
    started.end()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1240,1300"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


def waited_for(found: Callable[[], Any], seconds: float = 60) -> Any:
    """What `found` finds, once it finds anything; pages are slow on a busy machine."""
    from selenium.common.exceptions import WebDriverException

    end = time.monotonic() + seconds
    while True:
        try:
            if result := found():
                return result
        except WebDriverException:
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, "nothing appeared"
        time.sleep(0.1)


def elements(browser: Any, selector: str) -> list[Any]:
    found: list[Any] = browser.find_elements("css selector", selector)
    return found


def shown(browser: Any, pane: str) -> np.ndarray:
    """The pixels that a pane of the page shows, as the server sends them."""
    image = waited_for(lambda: elements(browser, f"#{pane} img"))[0]
    address = waited_for(lambda: image.get_attribute("src"))
    with urllib.request.urlopen(address, timeout=30) as answer:
        return np.asarray(Image.open(io.BytesIO(answer.read())))


def notice(browser: Any) -> str:
    return str(elements(browser, "#notice")[0].text)


def paint(browser: Any) -> None:
    from selenium.webdriver import ActionChains

    canvas = waited_for(lambda: elements(browser, "#editor canvas"))[0]
    strokes = ActionChains(browser).move_to_element(canvas).click_and_hold()
    for step in ((6, 0), (6, 6), (-6, 6), (12, 4)):
        strokes = strokes.move_by_offset(*step)
    strokes.release().perform()


def requested(browser: Any) -> set[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return {one["request"]["url"] for one in sent}


@pytest.mark.slow
@pytest.mark.browser
@needs_a_browser
def test_a_hole_is_painted_and_completed_in_a_browser(
    server: Server, browser: Any, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 100, (72, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    browser.get(server.address)
    waited_for(lambda: elements(browser, "#examples img"))

    browser.find_element("css selector", "#complete").click()
    waited_for(lambda: "Open a picture first" in notice(browser))

    elements(browser, "#examples .thumbnail-item")[1].click()
    waited_for(lambda: "Chelsea" in notice(browser))
    example = shown(browser, "completion")
    browser.find_element("css selector", "#complete").click()
    waited_for(lambda: "in the hole" in notice(browser) and "Chelsea" not in notice(browser))
    assert np.array_equal(shown(browser, "completion"), example)

    upload = browser.find_element("css selector", "input[data-testid$='upload-button']")
    upload.send_keys(str(tmp_path / "noise.png"))
    waited_for(lambda: "96 × 72 pixels" in notice(browser))
    browser.find_element("css selector", "#complete").click()
    waited_for(lambda: "Nothing is painted" in notice(browser))
    assert not elements(browser, "#completion img")

    paint(browser)
    browser.find_element("css selector", "#complete").click()
    completed = shown(browser, "completion")
    hole = (shown(browser, "erased") == FILL).all(axis=2)
    assert 20 < hole.sum() < hole.size / 2
    middle = np.argwhere(hole).mean(axis=0)
    np.testing.assert_allclose(middle, (36, 48), atol=8, err_msg="not where it was painted")
    assert np.array_equal(completed[~hole], pixels[~hole])
    assert (completed[hole] != pixels[hole]).any(axis=1).mean() > 0.9
    assert np.array_equal(completed[hole], shown(browser, "raw")[hole])
    assert np.array_equal(shown(browser, "blended")[~hole], pixels[~hole])
    assert all(shown(browser, f"map-{scale}").shape == pixels.shape for scale in (4, 2, 1))

    asked = {url for url in requested(browser) if url.startswith(("http:", "https:", "ws:"))}
    assert {url for url in asked if not url.startswith(server.address)} == set()
    server.end()
    assert set(server.kept.iterdir()) == set(), "pictures stay on the disk after the end"
    contacts = server.contacts.read_text().splitlines()
    assert all("127.0.0.1" in line for line in contacts), contacts


def test_a_side_too_short_for_any_network_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match="--longest-side is 8: at least 16 pixels"):
        main([network, "--longest-side", "8", "--no-browser"])


def test_a_port_that_is_taken_is_named_with_what_to_do(network: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            OSError, match=rf"cannot serve on 127\.0\.0\.1:{port} \(.*; choose another"
        ):
            main([network, "--port", str(port), "--no-browser", "--device", "cpu"])


def test_a_folder_without_a_network_is_told_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no trained network"):
        main([str(tmp_path), "--no-browser"])
