"""The server as an ASGI application: its routes, and OpenAI's form for what no route answers."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from safety_modules.serving.access import Caller
from safety_modules.serving.door import Door
from safety_modules.serving.errors import RequestRefused
from safety_modules.serving.exchange import Exchange

GUARDRAIL = "/beta/litellm_basic_guardrail_api"


def create_app(service: Door) -> FastAPI:
    """The application: routes, and OpenAI's form for what no route answers."""
    app = FastAPI(lifespan=service.running, docs_url=None, redoc_url=None, openapi_url=None)
    routes: list[tuple[str, str, Callable[[Exchange, Caller], Awaitable[Response]]]] = [
        ("POST", "/v1/chat/completions", service.chat),
        ("POST", "/v1/moderations", service.moderate),
        ("POST", GUARDRAIL, service.guardrail),
        ("GET", "/v1/models", service.models),
        ("GET", "/metrics", service.measured),
    ]
    for method, path, answer in routes:
        app.add_api_route(path, _route(service, answer), methods=[method])
    app.add_api_route("/healthz", service.health, methods=["GET"])

    async def unknown(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        known = ", ".join(path for _, path, _ in routes)
        refused = RequestRefused(status, f"not answered: expected one of {known}, got another path or method.")
        return refused.response()

    app.add_exception_handler(HTTPException, unknown)
    return app


def _route(
    service: Door, answer: Callable[[Exchange, Caller], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    async def guarded(request: Request) -> Response:
        return await service.guarded(request, answer)

    return guarded
