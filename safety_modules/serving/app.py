"""The server as an ASGI application: its routes, and OpenAI's form for what no route answers."""

from collections.abc import Awaitable, Callable, Collection

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from safety_modules.serving.door import Door
from safety_modules.serving.errors import RequestRefused

GUARDRAIL = "/beta/litellm_basic_guardrail_api"
ROUTES = (
    ("POST", "/v1/chat/completions", "chat"),
    ("POST", "/v1/moderations", "moderate"),
    ("POST", GUARDRAIL, "guardrail"),
    ("GET", "/v1/models", "models"),
    ("GET", "/metrics", "measured"),
)
"""Method, path, and which of a `Door`'s methods answers."""


def create_app(service: Door) -> FastAPI:
    """The application: routes, and OpenAI's form for what no route answers."""
    app = FastAPI(lifespan=service.running, docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, lambda: service)

    async def unknown(request: Request, error: Exception) -> Response:
        return not_found(error.status_code if isinstance(error, HTTPException) else 500).response()

    app.add_exception_handler(HTTPException, unknown)
    return app


def add_routes(app: FastAPI, service: Callable[[], Door], without: Collection[str] = ()) -> None:
    """The routes of a service, which need be there only once somebody asks; `without`: paths that are left out."""
    for method, path, answer in ROUTES:
        if path not in without:
            app.add_api_route(path, _route(service, answer), methods=[method])

    async def health() -> Response:
        return await service().health()

    app.add_api_route("/healthz", health, methods=["GET"])


def not_found(status: int) -> RequestRefused:
    """For what no route answers."""
    known = ", ".join(path for _, path, _ in ROUTES)
    return RequestRefused(status, f"not answered: expected one of {known}, got another path or method.")


def _route(service: Callable[[], Door], answer: str) -> Callable[[Request], Awaitable[Response]]:
    async def guarded(request: Request) -> Response:
        door = service()
        return await door.guarded(request, getattr(door, answer))

    return guarded
