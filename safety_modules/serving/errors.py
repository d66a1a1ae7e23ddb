"""What a request is refused with: a status, a sentence, and OpenAI's form for both."""

from typing import Any

from fastapi.responses import JSONResponse

from safety_modules.errors import SafetyModulesError

RETRY_SECONDS = 1
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 503: "overloaded_error"}


class RequestRefused(SafetyModulesError):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: `what happened: expected X, got Y. Next step.`
        code: a word for programs.
        parameter: the field it is about.
    """

    def __init__(self, status: int, message: str, code: str | None = None, parameter: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.parameter = status, code, parameter

    def body(self) -> dict[str, Any]:
        """As OpenAI's servers say it."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.parameter, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole answer; where coming back helps it says when."""
        headers = {"retry-after": str(RETRY_SECONDS)} if self.status == 503 else {}
        headers |= {"www-authenticate": "Bearer"} if self.status == 401 else {}
        return JSONResponse(self.body(), self.status, headers)


def overloaded(what: str) -> RequestRefused:
    """A server that has no room or no time left: nothing is wrong with the request."""
    return RequestRefused(503, f"not answered: {what}. Send the request again, later.", "overloaded")


def as_refused(error: Exception) -> RequestRefused:
    """What is told about an error while a request was read or answered; nothing of what only the operator may see."""
    if isinstance(error, RequestRefused):
        return error
    if isinstance(error, SafetyModulesError):
        return RequestRefused(400, " ".join(str(error).split()), "invalid_request")
    return RequestRefused(500, "not answered: the server failed. Its log says why; send the request again.", "failed")
