"""Pictures of strangers: bombs, damage, and addresses that lead inside."""

import base64
import socket
import struct
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from serving_cases import data_uri

from safety_modules.serving import fetch
from safety_modules.serving.errors import RequestRefused
from safety_modules.serving.fetch import Fetch, is_public
from safety_modules.serving.images import Pictures
from safety_modules.serving.settings import ServeSettings

RED = Image.new("RGB", (40, 30), "red")


def pictures(**limits):
    settings = ServeSettings(**limits)
    return Pictures(settings, Fetch(settings))


def uri(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def claiming(width, height):
    """A PNG of a few bytes that says it has this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_pictures_of_the_web_are_read(kind):
    assert pictures().picture(data_uri(RED, kind), "0").size == RED.size


@pytest.mark.parametrize(
    "address",
    [
        "",
        "data:",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64,!!!!",
        "data:image/png;base64,AAA",
        "data:image/png,abc",
        uri(b"no picture"),
        uri(claiming(100_000, 100_000)),
        uri(claiming(0, 5)),
        uri(claiming(60_000, 60)),
        uri(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
        "file:///etc/passwd",
        "/etc/passwd",
        "ftp://example.org/a.png",
    ],
)
def test_what_is_no_picture_is_refused_with_one_sentence(address):
    with pytest.raises(RequestRefused) as error:
        pictures().picture(address, "0")
    assert error.value.status == 400 and "\n" not in str(error.value)
    assert "passwd" not in str(error.value)


@settings(deadline=None)
@given(st.binary(max_size=80), st.integers(0, 60))
def test_damage_anywhere_is_a_refusal_or_a_picture(damage, place):
    data = base64.b64decode(data_uri(RED, "JPEG").partition(",")[2])
    broken = uri(data[:place] + damage + data[place + len(damage) :])
    for read in (pictures().picture, pictures().frames):
        try:
            read(broken, "0")
        except RequestRefused as error:
            assert error.status == 400


def test_a_picture_is_measured_before_it_is_decoded():
    with pytest.raises(RequestRefused, match="at most 1000 pixels, got 40 x 30"):
        pictures(max_pixels=1000).picture(data_uri(RED), "0")
    with pytest.raises(RequestRefused, match="at most 10 bytes"):
        pictures(max_image_bytes=10).picture(data_uri(RED), "0")


def test_an_animation_is_measured_with_all_its_frames():
    frames = [Image.new("RGB", (40, 30), (shade, 0, 0)) for shade in range(0, 200, 10)]
    animation = data_uri(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert len(pictures().frames(animation, "0")) == 8
    with pytest.raises(RequestRefused, match="20 frames"):
        pictures(max_pixels=40 * 30 * 2).frames(animation, "0")
    assert pictures(max_pixels=40 * 30).picture(animation, "0").size == (40, 30)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1",
        "::ffff:8.8.8.8", "64:ff9b::a00:1", "2002:7f00:1::", "2001:0:7f00:1::", "ff02::1",
    ],
)  # fmt: skip
def test_addresses_of_networks_inside_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111"])
def test_addresses_of_the_internet_are(address):
    assert is_public(address)


def resolving(monkeypatch, *answers):
    """Names resolve to these, one after the other; connections are noted and refused."""
    asked, connected = [], []
    left = list(answers)

    def getaddrinfo(host, port, **_options):
        asked.append(host)
        return [(2, 1, 6, "", (address, port)) for address in (left.pop(0) if len(left) > 1 else left[0])]

    def connect(address, timeout=None):
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", connect)
    return asked, connected


def get(address, *hosts, **limits):
    return Fetch(ServeSettings(image_hosts=hosts or ("pics.example",), **limits))(address)


@pytest.mark.parametrize(
    "address",
    [
        "http://other.example/a.png",
        "http://pics.example.other.example/a.png",
        "http://pics.example@other.example/a.png",
        "http://user@pics.example/a.png",
        "http://pics.example:8080/a.png",
        "https://pics.example:80/a.png",
        "http://pics.example:x/a.png",
        "http://[::1/a.png",
        "http:///a.png",
        "http://pics.example\\@other.example/",
        "http://pics.example/ a",
        "http://pics.example/\r\nX: y",
        "http://püx.example/",
        "gopher://pics.example/",
    ],
)
def test_other_hosts_ports_and_tricks_are_never_asked(monkeypatch, address):
    asked, connected = resolving(monkeypatch, ["8.8.8.8"])
    with pytest.raises(RequestRefused):
        get(address)
    assert not connected and not asked


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::1"], []])
def test_an_allowed_name_that_leads_inside_is_not_followed(monkeypatch, addresses):
    _, connected = resolving(monkeypatch, addresses)
    with pytest.raises(RequestRefused, match="private network"):
        get("http://pics.example/a.png")
    assert not connected


def test_a_name_that_changes_its_mind_is_asked_once_and_its_first_address_is_the_one_connected_to(monkeypatch):
    asked, connected = resolving(monkeypatch, ["8.8.8.8"], ["127.0.0.1"])
    with pytest.raises(RequestRefused):
        get("http://pics.example/a.png")
    assert asked == ["pics.example"] and connected == ["8.8.8.8"]


@pytest.fixture(params=["HTTP/1.0", "HTTP/1.1"])
def host(monkeypatch, request):
    """A host of pictures on this machine, which counts as public, under the name pics.example."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = request.param

        def do_GET(self):
            self.server.paths.append((self.path, self.headers["Host"]))
            status, headers, body = self.server.answers.get(self.path, (404, {}, b""))
            self.send_response(status)
            pieces = body if isinstance(body, list) else [body]
            length = str(sum(len(piece) for piece in pieces if isinstance(piece, bytes)))
            if self.protocol_version == "HTTP/1.1":  # before, an answer ends where the connection does
                headers = {"Content-Length": length} | headers
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.close_connection = True
            for piece in pieces:
                if isinstance(piece, float):
                    self.server.over.wait(piece)
                else:
                    self.wfile.write(piece)
                    self.wfile.flush()

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.paths, server.over, server.names = {}, [], threading.Event(), []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()

    real = socket.getaddrinfo

    def getaddrinfo(name, port, *arguments, **options):
        if name == "127.0.0.1":  # the address itself, on its way to a connection
            return real(name, port, *arguments, **options)
        server.names.append(name)
        return [(2, 1, 6, "", ("10.0.0.1" if name == "inside.example" else "127.0.0.1", port))]

    connect = socket.create_connection
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(
        socket, "create_connection", lambda address, **options: connect((address[0], server.server_port), **options)
    )
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def test_a_picture_comes_from_an_allowed_host(host):
    host.answers["/a.png?b=1"] = (200, {}, b"bytes")
    assert get("http://pics.example/a.png?b=1") == b"bytes"
    assert host.paths == [("/a.png?b=1", "pics.example")]


def test_redirects_are_followed_by_the_same_rules(host):
    host.answers |= {
        "/1": (302, {"Location": "/2"}, b""),
        "/2": (301, {"Location": "http://cdn.example/3"}, b""),
        "/3": (200, {}, b"bytes"),
        "/in": (302, {"Location": "http://inside.example/"}, b""),
        "/out": (302, {"Location": "http://other.example/"}, b""),
        "/file": (302, {"Location": "file:///etc/passwd"}, b""),
        "/loop": (302, {"Location": "/loop"}, b""),
        "/none": (302, {}, b""),
    }
    hosts = ("pics.example", "cdn.example", "inside.example")
    assert get("http://pics.example/1", *hosts) == b"bytes"
    for path, why in {
        "in": "private",
        "out": "host",
        "file": "plain http",
        "loop": "3 redirects",
        "none": "3 red",
    }.items():
        with pytest.raises(RequestRefused, match=why):
            get(f"http://pics.example/{path}", *hosts)
    assert "other.example" not in host.names


def test_a_host_that_is_slow_large_or_wrong_is_left(host):
    host.answers |= {
        "/slow": (200, {}, [b"x", 60.0, b"y"]),
        "/drip": (200, {}, [piece for _ in range(500) for piece in (b"x", 0.02)]),
        "/large": (200, {}, b"x" * 5000),
        "/short": (200, {"Content-Length": "100"}, b"x"),
    }
    for path, options, why in (
        ("slow", {"fetch_seconds": 0.3}, "imeout"),
        ("drip", {"fetch_seconds": 0.3}, "imeout"),
        ("large", {"max_image_bytes": 1000}, "1000 bytes"),
        ("missing", {}, "got 404"),
        ("short", {}, "whole picture"),
    ):
        began = time.monotonic()
        with pytest.raises(RequestRefused, match=why):
            get(f"http://pics.example/{path}", **options)
        assert time.monotonic() - began < 9  # what the drip takes is 10
