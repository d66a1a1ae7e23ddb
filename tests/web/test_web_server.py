"""The page behind HTTP: this machine alone, own pages alone, nothing asked elsewhere."""

import http.client
import json
import socket
from functools import cache
from urllib.parse import urlsplit

import pytest

pytest.importorskip("gradio", reason="needs the extra demo: its libraries are in a folder of their own, see make test")

from web_cases import FIRST, folder, page, served

from safety_modules.web.server import HOST, make_app, make_server

MOST = 50_000


@cache
def app():
    return make_app(page().blocks(), page()._audits, MOST)


@pytest.fixture(scope="module")
def address():
    asked = []
    connect = socket.socket.connect

    def noted(self, to):
        asked.append(to)
        return connect(self, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", noted)
        with served(app()) as found:
            yield found
    elsewhere = [to for to in asked if isinstance(to, tuple) and to[0] not in (HOST, "localhost", "::1")]
    assert elsewhere == [], "the server asked somebody"


def request(address, method="GET", path="/", body=None, **headers):
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    found = connection.getresponse()
    return found.status, dict(found.getheaders()), found.read().decode("utf-8", "replace")


def test_it_listens_on_this_machine_alone():
    assert make_server(app(), 0).config.host == HOST == "127.0.0.1"


def test_the_page_comes_with_rules_for_the_browser(address):
    status, headers, text = request(address)
    assert status == 200 and "safety-modules demo" in text
    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert "http" not in headers["content-security-policy"]


def test_other_names_and_other_pages_are_refused(address):
    assert request(address, Host="evil.example")[0] == 400
    status, _, text = request(address, "POST", "/gradio_api/queue/join", "{}", Origin="http://evil.example")
    assert status == 403 and "one of another" in text
    assert request(address, path="/config", Origin="null")[0] == 403
    own = address.replace("http://", "")
    assert request(address, path="/config", Origin=address, Host=own)[0] == 200


def test_the_page_names_no_other_server_and_no_function_for_programs(address):
    config = json.loads(request(address, path="/config")[2])
    assert not config["analytics_enabled"] and not config.get("is_space")
    assert config["footer_links"] == [] and not config.get("run_history")
    assert json.loads(request(address, path="/gradio_api/info")[2])["named_endpoints"] == {}


def test_what_is_too_large_is_not_taken(address):
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    status = {}
    for size in (MOST // 2, 2 * MOST):
        body = head + bytes(size) + b"\r\n--x--\r\n"
        kind = "multipart/form-data; boundary=x"
        status[size] = request(address, "POST", "/gradio_api/upload", body, Content_Type=kind)[0]
    assert status == {MOST // 2: 200, 2 * MOST: 413}


def test_files_of_this_machine_are_not_served(address):
    for path in ("/etc/passwd", "/etc/hostname"):
        assert request(address, path=f"/gradio_api/file={path}")[0] in (403, 404)


def test_the_report_of_an_audit_has_an_address(address):
    status, _, text = request(address, path="/audits/99")
    assert status == 404 and "expected the number of one that is done" in text
    assert request(address, path="/audits/..%2F..%2Fetc")[0] in (404, 422)
    audited = page()._audits.run(str(folder(4)), FIRST, page()._playground.policy)
    status, headers, text = request(address, path=f"/audits/{audited.number}")
    assert status == 200 and headers["content-type"].startswith("text/html") and "Audit of" in text
