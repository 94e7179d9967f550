"""The reference page in a real browser, before a sidecar whose backend answers everything."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.browser import chromium
from tests.browser.chromium import Browser, Tab
from tests.browser.prefix import proxy
from tests.e2e import servers
from tests.ops import able_worker

KEY = "sk-secret"
LIGHT, DARK = (255, 255, 255), (28, 32, 34)
SHOWN = """
[...document.querySelectorAll('.opblock')].map(block =>
  block.querySelector('.opblock-summary-method').textContent.toLowerCase() + ' ' +
  block.querySelector('.opblock-summary-path').dataset.path)
"""
SETTLED = "new Promise(settled => setTimeout(settled, 100, true))"
"""React puts an example into its state after it has shown it; a reader takes longer than that to click."""
ANSWERED = ".live-responses-table .response-col_status"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium.running() as running:
        yield running


@pytest.fixture(scope="session")
def worker() -> Iterator[str]:
    with able_worker.listening() as address:
        yield address


@pytest.fixture(scope="session")
def url(worker: str) -> Iterator[str]:
    with servers.sidecar(worker) as (_, url):
        yield url


@contextmanager
def page(browser: Browser, url: str, **how: Any) -> Iterator[Tab]:
    """The reference, opened. In the end it has sent nothing elsewhere, and nothing has gone wrong."""
    tab = browser.tab(**how)
    tab.open(f"{url}/docs")
    tab.wait("document.querySelectorAll('.opblock').length > 0")
    yield tab
    elsewhere = [one for one in tab.log.requests if not one.startswith((f"{url}/", "data:image/"))]
    assert not elsewhere
    assert not tab.log.problems


def operations(url: str) -> dict[str, Any]:
    """By method and path, as the document has them."""
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=30) as response:
        paths = json.load(response)["paths"]
    return {f"{method} {path}": one for path, methods in paths.items() for method, one in methods.items()}


def block(operation: dict[str, Any]) -> str:
    """A selector for where the page shows it."""
    return f"#operations-{operation['tags'][0]}-{operation['operationId']}"


def execute(tab: Tab, operation: dict[str, Any]) -> tuple[str, str]:
    """Opens it and sends what is there; status and body of the answer."""
    where = block(operation)
    if not tab.run(f"document.querySelector('{where}').classList.contains('is-open')"):
        tab.click(f"{where} .opblock-summary-control")
    tab.wait(f"document.querySelector('{where} .execute') && {SETTLED}")
    tab.click(f"{where} .execute")
    tab.wait(f"!!document.querySelector('{where} {ANSWERED}')")
    status = tab.run(f"document.querySelector('{where} .live-responses-table tbody .response-col_status').innerText")
    body = tab.run(f"document.querySelector('{where} .live-responses-table .highlight-code').innerText")
    return status.split()[0], body


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_it_shows_every_operation_in_the_colours_and_width_of_the_reader(
    browser: Browser, url: str, width: int, dark: bool
) -> None:
    with page(browser, url, width=width, dark=dark) as tab:
        assert sorted(tab.run(SHOWN)) == sorted(operations(url))
        assert tab.run("document.title") == "anyserve-openai: API reference"
        assert tab.run("document.querySelector('header strong').innerText") == "anyserve-openai"
        red, green, blue = DARK if dark else LIGHT
        background = "getComputedStyle(document.documentElement).backgroundColor"
        assert tab.run(background) == f"rgb({red}, {green}, {blue})"
        assert tab.run("document.documentElement.scrollWidth") <= width


def test_every_example_gives_an_answer(browser: Browser, url: str) -> None:
    with page(browser, url) as tab:
        for name, operation in operations(url).items():
            status, body = execute(tab, operation)
            assert (status, bool(body.strip())) == ("200", True), name


def test_every_named_example_gives_an_answer(browser: Browser, url: str) -> None:
    with page(browser, url) as tab:
        for name, operation in operations(url).items():
            examples = operation.get("requestBody", {"content": {}})["content"].get("application/json", {})
            for index, example in enumerate(examples.get("examples", {}).values()):
                where = block(operation)
                if not tab.run(f"document.querySelector('{where}').classList.contains('is-open')"):
                    tab.click(f"{where} .opblock-summary-control")
                if index:
                    tab.click(f"{where} .btn-clear")
                    tab.wait(f"!document.querySelector('{where} {ANSWERED}')")
                    _choose(tab, f"{where} .examples-select-element", index)
                shown = f"JSON.parse(document.querySelector('{where} .body-param__text')?.value || null)"
                tab.wait(
                    f"JSON.stringify({shown}) === {json.dumps(json.dumps(example['value'], separators=(',', ':')))}"
                )
                status, body = execute(tab, operation)
                assert status == "200", (name, example["summary"], body)
                assert ("[DONE]" in body) == bool(example["value"].get("stream"))


def _choose(tab: Tab, selector: str, index: int) -> None:
    """As a reader does: React notices a change by its event."""
    tab.run(
        f"""(() => {{
          const select = document.querySelector({json.dumps(selector)});
          select.selectedIndex = {index};
          select.dispatchEvent(new Event('change', {{bubbles: true}}));
        }})()"""
    )


def test_the_schemas_of_requests_and_answers_can_be_read(browser: Browser, url: str) -> None:
    operation = operations(url)["post /v1/chat/completions"]
    where = block(operation)
    with page(browser, url) as tab:
        tab.click(f"{where} .opblock-summary-control")
        for part, field, nested in (
            (".opblock-section-request-body", "messages", "role"),
            (".response", "choices", "index"),
        ):
            inside = f"{where} {part}"
            tab.click(f"{inside} .tabitem:nth-child(2) .tablinks")
            tab.wait(f"document.querySelector('{inside}').innerText.includes('{field}')")
            tab.run(
                f"document.querySelectorAll('{inside} .json-schema-2020-12-property button').forEach(b => b.click())"
            )
            tab.wait(f"document.querySelector('{inside}').innerText.includes('{nested}')")


def test_behind_a_proxy_with_a_prefix_it_sends_requests_below_that(browser: Browser, url: str) -> None:
    described = operations(url)
    with proxy(url) as outside, page(browser, outside) as tab:
        assert sorted(tab.run(SHOWN)) == sorted(described)
        assert execute(tab, described["post /v1/chat/completions"])[0] == "200"
        assert f"{outside}/v1/chat/completions" in tab.log.requests


def test_a_key_is_asked_for_and_sent(browser: Browser, worker: str) -> None:
    with servers.sidecar(worker, "--api-key", KEY) as (_, url):
        operation = operations(url)["get /v1/models"]
        with page(browser, url) as tab:
            status, body = execute(tab, operation)
            assert (status, "invalid_api_key" in body) == ("401", True)
            # The browser logs a response of 401 as an error: this one was meant.
            assert len(tab.log.problems) == 1
            assert "401" in tab.log.problems.pop()
            tab.click(".scheme-container .authorize")
            tab.wait("!!document.querySelector('.modal-ux input')")
            tab.run("document.querySelector('.modal-ux input').focus()")
            tab.call("Input.insertText", text=KEY)
            tab.click(".modal-ux .modal-btn.authorize")
            tab.wait("document.querySelector('.modal-ux').innerText.includes('Logout')")
            tab.click(".modal-ux .btn-done")
            tab.click(f"{block(operation)} .btn-clear")
            assert execute(tab, operation)[0] == "200"


def test_a_request_that_fails_shows_the_servers_error(browser: Browser, url: str) -> None:
    operation = operations(url)["get /v1/models/{model}"]
    with page(browser, url) as tab:
        tab.click(f"{block(operation)} .opblock-summary-control")
        tab.wait(f"document.querySelector('{block(operation)} input')?.value === 'llamacpp'")
        for action in ("focus", "select"):
            tab.run(f"document.querySelector('{block(operation)} input').{action}()")
        tab.call("Input.insertText", text="no-such-model")
        tab.run(f"document.querySelector('{block(operation)} input').blur()")
        status, body = execute(tab, operation)
        assert (status, "model_not_found" in body) == ("404", True)
        assert len(tab.log.problems) == 1
        assert "404" in tab.log.problems.pop()


def test_a_document_that_does_not_come_is_told_of(browser: Browser, url: str) -> None:
    tab = browser.tab()
    tab.call("Network.setBlockedURLs", urls=["*/openapi.json"])
    tab.open(f"{url}/docs")
    tab.wait("document.querySelector('#reference .note')?.innerText.startsWith('The reference could not be loaded.')")
