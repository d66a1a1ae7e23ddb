"""The page behind HTTP, on this machine alone: what other pages and other names ask for is refused."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, PlainTextResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware

from safety_modules.errors import DataError
from safety_modules.serving.server import Telling
from safety_modules.web import panels
from safety_modules.web.audits import Audits

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
# gradio's page brings all it needs; so nothing that stands in an answer or a file can make a browser ask elsewhere.
CONTENT_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; form-action 'self'; base-uri 'self'; "
    "frame-ancestors 'self'"
)
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


class OwnPagesOnly:
    """Refuses what another page in the same browser sends, and tells the browser to ask nobody else.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            refused = PlainTextResponse("Refused: expected a request of this page, got one of another.\n", 403)
            await refused(scope, receive, send)
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                told = MutableHeaders(scope=message)
                told["content-security-policy"] = CONTENT_POLICY
                told["x-content-type-options"] = "nosniff"
                told["referrer-policy"] = "no-referrer"
            await send(message)

        await self._app(scope, receive, answer)


def make_app(blocks: gr.Blocks, audits: Audits, most_bytes: int) -> FastAPI:
    """The application: the page at /, reports of audits at /audits/N.

    Args:
        blocks: the page.
        audits: whose reports.
        most_bytes: of a picture that is uploaded.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(OwnPagesOnly)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*NAMES])

    def report(number: int) -> Response:
        try:
            return FileResponse(audits.report(number), media_type="text/html")
        except DataError as error:
            return PlainTextResponse(f"{error}\n", 404)

    app.add_api_route("/audits/{number}", report, methods=["GET"])
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=HOST,
        footer_links=[],
        show_error=False,
        max_file_size=most_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=THEME,
        css=panels.style(),
    )


def make_server(app: FastAPI, port: int, started: Callable[[int], None] | None = None) -> uvicorn.Server:
    """A server that `run()` runs until it is stopped (Ctrl-C).

    Args:
        app: from `make_app`.
        port: 0 = a free one.
        started: called with the port, once it listens.
    """
    config = uvicorn.Config(
        app, HOST, port, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
    )
    return Telling(config, started)
