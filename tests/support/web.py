"""The page of `mqttkit web` for tests: its server, its events and a browser."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

from mqttkit.settings import Settings
from mqttkit.web.access import PageAccess
from mqttkit.web.page import LivePage, PageOptions
from tests.support.brokers import need
from tests.support.clients import settings_for, wait_until


@contextlib.contextmanager
def page_of(port: int, *filters: str, **options: Any) -> Iterator[LivePage]:
    """Serve the page of a broker."""
    chosen = PageOptions(**{"access": PageAccess(), **options})
    with LivePage(Settings(mqtt=settings_for(port)), filters or ("#",), chosen) as page:
        yield page


def address_of(page: LivePage) -> tuple[str, int, str]:
    """Return host, port and query of a page."""
    place, _, query = page.address.removeprefix("http://").partition("/")
    host, _, port = place.rpartition(":")
    return host, int(port), query


def get(page: LivePage, path: str, *, token: bool = True, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Return status, headers and body of the answer; underscores in names of headers become hyphens."""
    host, port, query = address_of(page)
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        url = path + ("&" if "?" in path else "?") + query.lstrip("?") if token else path
        connection.request("GET", url, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


class Events:
    """The stream of events, read by a client that does nothing else."""

    def __init__(self, page: LivePage, *, buffer: int = 0) -> None:
        host, port, query = address_of(page)
        self._socket = socket.socket()
        if buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.settimeout(60)
        self._socket.connect((host, port))
        self._socket.sendall(f"GET /events{query} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        self._file = self._socket.makefile("rb")
        self.status = self._file.readline().split()[1].decode()
        while self._file.readline().strip():
            pass

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def next(self) -> tuple[str, Any]:
        """Return name and content of the next event; EOFError at the end."""
        name = ""
        while line := self._file.readline():
            if line.startswith(b"event: "):
                name = line[7:].strip().decode()
            elif line.startswith(b"data: "):
                return name, json.loads(line[6:])
        raise EOFError

    def ends(self) -> bool:
        """Read what is left, also half an event; return whether the server then closes the connection within 60 s."""
        try:
            while self._file.readline():
                pass
        except TimeoutError:
            return False
        return True

    def until(self, wanted: str) -> Any:
        """Return the content of the next event with this name."""
        while True:
            name, content = self.next()
            if name == wanted:
                return content


@contextlib.contextmanager
def browser(*, size: tuple[int, int] = (1400, 860), dark: bool = False) -> Iterator[Any]:
    """Run headless Chromium; without it fail under CI=true and skip elsewhere."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = need("chromium")
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--window-size={size[0]},{size[1]}")
    if dark:
        options.add_argument("--blink-settings=preferredColorScheme=0")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(need("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


NETWORK_CHANGED = "ERR_NETWORK_CHANGED"
"""Chromium gives up on requests, also on loopback, when an interface of the machine gets or loses an address."""
_IS_LIVE = "return !('incomplete' in document.documentElement.dataset) && globalThis.mqttkit?.stream.state === 'live'"
_LOOKS = """
    const { state, problem } = globalThis.mqttkit?.stream ?? {};
    return { address: location.origin, state, problem, text: document.body.textContent.trim().slice(0, 500) }"""


def open_page(driver: Any, page: LivePage) -> None:
    """Open the page and wait until it is complete and has the first snapshot; fail with what the browser saw."""
    driver.get_log("browser")
    logged: list[str] = []
    wait_until(lambda: _arrives(driver, page.address))

    def is_live() -> Any:
        logged.extend(entry["message"] for entry in driver.get_log("browser"))
        return driver.execute_script(_IS_LIVE)

    try:
        wait_until(is_live)
    except AssertionError:
        looks = driver.execute_script(_LOOKS)
        raise AssertionError(f"the page is not live: {looks}; {page.hub.viewers} viewers; logged: {logged}") from None
    logged = [each.replace(page.address, "…") for each in logged]
    assert logged == [] or any(NETWORK_CHANGED in each for each in logged)


def _arrives(driver: Any, address: str) -> bool:
    """Open an address; return False if the machine's network changed meanwhile."""
    from selenium.common.exceptions import WebDriverException

    try:
        driver.get(address)
    except WebDriverException as error:
        if NETWORK_CHANGED not in str(error):
            raise
        return False
    return True


def complaints(driver: Any) -> list[str]:
    """Return what the browser has logged, without requests that ended because the machine's network changed."""
    logged = [entry["message"] for entry in driver.get_log("browser")]
    return [each for each in logged if NETWORK_CHANGED not in each]
