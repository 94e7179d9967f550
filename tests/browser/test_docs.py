"""The reference page in a real browser, with a sidecar whose backend answers everything."""

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
SHOWN_OPERATIONS = """
[...document.querySelectorAll('.opblock')].map(block =>
  block.querySelector('.opblock-summary-method').textContent.toLowerCase() + ' ' +
  block.querySelector('.opblock-summary-path').dataset.path)
"""
STATE_TIMER = "new Promise(settled => setTimeout(settled, 100, true))"
"""Waits 100 ms: React stores an example in its state only after showing it. Readers click later than that."""
RESPONSE_STATUS = ".live-responses-table .response-col_status"


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
def page(browser: Browser, url: str, **options: Any) -> Iterator[Tab]:
    """Yields the opened page; checks at the end that it sent nothing elsewhere and had no problems."""
    tab = browser.tab(**options)
    tab.open(f"{url}/docs")
    tab.wait("document.querySelectorAll('.opblock').length > 0")
    yield tab
    elsewhere = [request for request in tab.log.requests if not request.startswith((f"{url}/", "data:image/"))]
    assert not elsewhere
    assert not tab.log.problems


def operations(url: str) -> dict[str, Any]:
    """Returns the operations of the document by method and path."""
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=30) as response:
        paths = json.load(response)["paths"]
    return {f"{method} {path}": operation for path, methods in paths.items() for method, operation in methods.items()}


def block(operation: dict[str, Any]) -> str:
    """Returns the selector of the operation's block."""
    return f"#operations-{operation['tags'][0]}-{operation['operationId']}"


def execute(tab: Tab, operation: dict[str, Any]) -> tuple[str, str]:
    """Opens the operation, sends its request, and returns status and body of the response."""
    selector = block(operation)
    if not tab.run(f"document.querySelector('{selector}').classList.contains('is-open')"):
        tab.click(f"{selector} .opblock-summary-control")
    tab.wait(f"document.querySelector('{selector} .execute') && {STATE_TIMER}")
    tab.click(f"{selector} .execute")
    tab.wait(f"!!document.querySelector('{selector} {RESPONSE_STATUS}')")
    status = tab.run(f"document.querySelector('{selector} .live-responses-table tbody .response-col_status').innerText")
    body = tab.run(f"document.querySelector('{selector} .live-responses-table .highlight-code').innerText")
    return status.split()[0], body


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_shows_every_operation_in_the_colours_and_width_of_the_reader(
    browser: Browser, url: str, width: int, dark: bool
) -> None:
    with page(browser, url, width=width, dark=dark) as tab:
        assert sorted(tab.run(SHOWN_OPERATIONS)) == sorted(operations(url))
        assert tab.run("document.title") == "anyserve-openai: API reference"
        assert tab.run("document.querySelector('header strong').innerText") == "anyserve-openai"
        red, green, blue = DARK if dark else LIGHT
        background = "getComputedStyle(document.documentElement).backgroundColor"
        assert tab.run(background) == f"rgb({red}, {green}, {blue})"
        assert tab.run("document.documentElement.scrollWidth") <= width


def test_every_example_is_answered(browser: Browser, url: str) -> None:
    with page(browser, url) as tab:
        for name, operation in operations(url).items():
            status, body = execute(tab, operation)
            assert (status, bool(body.strip())) == ("200", True), name


def test_every_named_example_is_answered(browser: Browser, url: str) -> None:
    with page(browser, url) as tab:
        for name, operation in operations(url).items():
            examples = operation.get("requestBody", {"content": {}})["content"].get("application/json", {})
            for index, example in enumerate(examples.get("examples", {}).values()):
                selector = block(operation)
                if not tab.run(f"document.querySelector('{selector}').classList.contains('is-open')"):
                    tab.click(f"{selector} .opblock-summary-control")
                if index:
                    tab.click(f"{selector} .btn-clear")
                    tab.wait(f"!document.querySelector('{selector} {RESPONSE_STATUS}')")
                    _choose(tab, f"{selector} .examples-select-element", index)
                shown = f"JSON.parse(document.querySelector('{selector} .body-param__text')?.value || null)"
                tab.wait(
                    f"JSON.stringify({shown}) === {json.dumps(json.dumps(example['value'], separators=(',', ':')))}"
                )
                status, body = execute(tab, operation)
                assert status == "200", (name, example["summary"], body)
                assert ("[DONE]" in body) == bool(example["value"].get("stream"))


def _choose(tab: Tab, selector: str, index: int) -> None:
    """Selects as a reader does: React reacts only to the change event."""
    tab.run(
        f"""(() => {{
          const select = document.querySelector({json.dumps(selector)});
          select.selectedIndex = {index};
          select.dispatchEvent(new Event('change', {{bubbles: true}}));
        }})()"""
    )


def test_the_schemas_of_requests_and_responses_are_shown(browser: Browser, url: str) -> None:
    operation = operations(url)["post /v1/chat/completions"]
    selector = block(operation)
    with page(browser, url) as tab:
        tab.click(f"{selector} .opblock-summary-control")
        for part, field, nested in (
            (".opblock-section-request-body", "messages", "role"),
            (".response", "choices", "index"),
        ):
            schemas = f"{selector} {part}"
            tab.click(f"{schemas} .tabitem:nth-child(2) .tablinks")
            tab.wait(f"document.querySelector('{schemas}').innerText.includes('{field}')")
            tab.run(
                f"document.querySelectorAll('{schemas} .json-schema-2020-12-property button').forEach(b => b.click())"
            )
            tab.wait(f"document.querySelector('{schemas}').innerText.includes('{nested}')")


def test_behind_a_proxy_with_a_prefix_requests_keep_the_prefix(browser: Browser, url: str) -> None:
    described = operations(url)
    with proxy(url) as outside, page(browser, outside) as tab:
        assert sorted(tab.run(SHOWN_OPERATIONS)) == sorted(described)
        assert execute(tab, described["post /v1/chat/completions"])[0] == "200"
        assert f"{outside}/v1/chat/completions" in tab.log.requests


def test_a_key_can_be_entered_and_is_sent(browser: Browser, worker: str) -> None:
    with servers.sidecar(worker, "--api-key", KEY) as (_, url):
        operation = operations(url)["get /v1/models"]
        with page(browser, url) as tab:
            status, body = execute(tab, operation)
            assert (status, "invalid_api_key" in body) == ("401", True)
            # The browser logs a response of 401 as an error; this one is expected.
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


def test_a_failed_request_shows_the_servers_error(browser: Browser, url: str) -> None:
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


def test_a_missing_document_is_reported(browser: Browser, url: str) -> None:
    tab = browser.tab()
    tab.call("Network.setBlockedURLs", urls=["*/openapi.json"])
    tab.open(f"{url}/docs")
    tab.wait("document.querySelector('#reference .note')?.innerText.startsWith('The reference could not be loaded.')")
