"""The reference page: what it may load, how long clients may cache it, and that it needs no key."""

import gzip
import hashlib
import http.client
import json
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest

from openai_server.api.docs import paths
from openai_server.api.docs.files import FOLDER
from scripts import vendor
from tests.e2e import servers
from tests.ops import able_worker
from tests.wire.fake_worker import FakeWorker
from tests.wire.sidecar import running

EVERY_PATH = pytest.mark.parametrize("path", paths.FILES)
SCRIPT = f"{paths.BUNDLE}/swagger-ui-bundle.js"


class Page(HTMLParser):
    """The references of a page, and its inline scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.inline: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag in ("script", "style")
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        self.inline += [name for name, _ in attrs if name.startswith("on") or name == "style"]

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False


async def test_the_page_names_the_product_and_is_html() -> None:
    async with running(FakeWorker()) as sidecar:
        reply = await sidecar.get("/docs")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<title>anyserve-openai: API reference</title>" in reply.body


async def test_the_policy_allows_nothing_from_elsewhere_and_nothing_inline() -> None:
    async with running(FakeWorker()) as sidecar:
        headers = (await sidecar.get("/docs")).headers
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


@pytest.mark.parametrize("prefix", ["", "/behind/a/proxy"])
async def test_everything_that_the_page_loads_is_served_under_any_prefix(prefix: str) -> None:
    async with running(FakeWorker()) as sidecar:
        page = Page((await sidecar.get("/docs")).body.decode())
        assert not page.inline
        for reference in page.references:
            if reference.startswith("data:image/"):
                continue
            target = urlsplit(urljoin(f"http://host{prefix}/docs", reference))
            assert target.netloc == "host"
            assert (await sidecar.get(target.path.removeprefix(prefix))).status == 200, reference
    assert [reference for reference in page.references if reference.endswith(".js")] == [
        SCRIPT.removeprefix("/"),
        "docs/page.js",
    ]


@EVERY_PATH
async def test_a_file_that_the_browser_has_is_not_sent_again(path: str) -> None:
    async with running(FakeWorker()) as sidecar:
        first = await sidecar.get(path)
        etag = first.headers["etag"]
        assert (first.status, int(first.headers["content-length"])) == (200, len(first.body))
        assert first.headers["x-content-type-options"] == "nosniff"
        versioned = path.startswith(paths.BUNDLE)
        assert first.headers["cache-control"] == ("public, max-age=31536000, immutable" if versioned else "no-cache")
        for condition in (etag, f'"other", W/{etag}', "*"):
            second = await sidecar.send("GET", path, headers={"If-None-Match": condition})
            assert (second.status, second.body, second.headers["etag"]) == (304, b"", etag)
            assert second.headers["cache-control"] == first.headers["cache-control"]
        assert (await sidecar.send("GET", path, headers={"If-None-Match": '"other"'})).status == 200


@EVERY_PATH
async def test_head_has_the_headers_and_no_body(path: str) -> None:
    async with running(FakeWorker()) as sidecar:
        get, head = [await sidecar.send(method, path) for method in ("GET", "HEAD")]
    assert (head.status, head.body) == (200, b"")
    different = {name for name in get.headers if get.headers[name] != head.headers.get(name)}
    assert different == {"x-request-id"}


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [("gzip, deflate, br", True), ("br;q=1, GZIP; q=0.5", True), ("*", True), ("gzip;q=0", False), ("br", False)],
)
async def test_the_bundle_is_sent_compressed_to_clients_that_accept_it(accepted: str, compressed: bool) -> None:
    async with running(FakeWorker()) as sidecar:
        plain = await sidecar.get(SCRIPT)
        reply = await sidecar.send("GET", SCRIPT, headers={"Accept-Encoding": accepted})
    assert reply.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert (reply.headers.get("content-encoding") == "gzip") == compressed
    assert int(reply.headers["content-length"]) == len(reply.body)
    assert (reply.headers["etag"] != plain.headers["etag"]) == compressed
    assert (gzip.decompress(reply.body) if compressed else reply.body) == plain.body
    (package,) = json.loads(vendor.COMPONENTS.read_text())["components"]
    listed = {part["name"]: part["hashes"][0]["content"] for part in package["components"]}
    assert hashlib.sha256(plain.body).hexdigest() == listed["swagger-ui-bundle.js"]


def test_the_bundle_is_the_pinned_package() -> None:
    vendor.check()


def test_every_bundled_file_has_a_path_or_is_the_list_of_them() -> None:
    files = {f"{path.parent.name}/{path.name}" for path in FOLDER.glob("*/*") if path.parent.name != "__pycache__"}
    assert files == {*paths.FILES.values(), f"swagger-ui/{vendor.COMPONENTS.name}"}


@EVERY_PATH
async def test_the_page_needs_no_key(path: str) -> None:
    async with running(FakeWorker(), api_key=("secret",)) as sidecar:
        assert (await sidecar.get(path)).status == 200
        assert (await sidecar.get("/v1/models")).status == 401


@EVERY_PATH
async def test_without_docs_the_page_is_an_unknown_path(path: str) -> None:
    async with running(FakeWorker(), docs=False) as sidecar:
        reply = await sidecar.get(path)
        unknown = await sidecar.get("/unknown")
        assert (reply.status, unknown.status) == (404, 404)
        assert reply.body == unknown.body.replace(b"/unknown", path.encode())
        assert (await sidecar.get("/openapi.json")).status == 200


@pytest.mark.parametrize("path", ["/docs/", "/v1/docs", "/docs/page/index.html", "/docs/../app.py", "/docs/swagger-ui"])
async def test_other_paths_below_the_page_are_unknown(path: str) -> None:
    async with running(FakeWorker()) as sidecar:
        assert (await sidecar.get(path)).status == 404


async def test_the_page_allows_only_get_and_head() -> None:
    async with running(FakeWorker()) as sidecar:
        reply = await sidecar.send("POST", "/docs", {})
    assert (reply.status, set(reply.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})


async def test_metrics_count_the_page_and_its_files_as_one_endpoint() -> None:
    async with running(FakeWorker()) as sidecar:
        for path in paths.FILES:
            await sidecar.get(path)
        text = (await sidecar.get("/metrics")).body.decode()
    counted = [line for line in text.splitlines() if "requests_total{" in line]
    assert len(counted) == 1
    assert 'endpoint="/docs"' in counted[0]
    assert counted[0].endswith(f" {len(paths.FILES)}.0")


@pytest.mark.slow
def test_the_page_uses_no_memory_before_its_first_request() -> None:
    code = "import sys, openai_server.app; sys.exit('openai_server.api.docs.files' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_several_processes_serve_the_page_on_connections_that_stay_open() -> None:
    with able_worker.listening() as address, servers.sidecar(address, "--workers", "2") as (_, url):
        etags = set()
        for _ in range(4):
            connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
            for method, path in (("HEAD", SCRIPT), ("GET", SCRIPT), ("HEAD", "/docs"), ("GET", "/docs")):
                connection.request(method, path, headers={"Accept-Encoding": "gzip"})
                response = connection.getresponse()
                body = response.read()
                assert (response.status, response.will_close) == (200, False)
                assert len(body) == (int(response.headers["content-length"]) if method == "GET" else 0)
                etags.add((path, response.headers["etag"]))
            connection.close()
        assert len(etags) == 2


@pytest.mark.slow
def test_the_option_is_an_environment_variable_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with able_worker.listening() as address:
        for variable, arguments, status in (("false", (), 404), ("true", ("--no-docs",), 404), ("true", (), 200)):
            monkeypatch.setenv("OPENAI_SERVER_DOCS", variable)
            with servers.sidecar(address, *arguments) as (_, url):
                connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
                connection.request("GET", "/docs")
                assert connection.getresponse().status == status
                connection.close()
