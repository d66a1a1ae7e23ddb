"""What requests look like: OpenAI's fields as far as they can be served, and `safety`; everything else is refused."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from safety_modules.errors import validation_problems
from safety_modules.io.strict import parse_json, without_controls
from safety_modules.serving.errors import RequestRefused

MOST_STOPS = 4


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TextPart(_Strict):
    """Words of a message."""

    type: Literal["text"]
    text: str


class ImageAddress(_Strict):
    """A picture: a `data:` URI, or the address of one on a host that the operator allows."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Strict):
    """A picture of a message."""

    type: Literal["image_url"]
    image_url: ImageAddress


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Strict):
    """A turn. Pictures belong to the user's."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        """Its content in one form."""
        return [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else list(self.content)

    @property
    def text(self) -> str:
        """Its words."""
        return "\n".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> list[str]:
        """Addresses of its pictures."""
        return [part.image_url.url for part in self.parts if isinstance(part, ImagePart)]


class SafetyAsked(_Strict):
    """How one request wants to be guarded.

    Attributes:
        mode: `enforce`; `report` = judged, answered by the base; `off` = not judged.
        policy: changes to the operator's, in the form of a policy file.
    """

    mode: Literal["off", "report", "enforce"] = "enforce"
    policy: dict[str, Any] | None = None


class StreamOptions(_Strict):
    """Whether the last chunk says what the answer took."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=100)]],
    Field(max_length=MOST_STOPS),
    BeforeValidator(_list),
]


class ChatRequest(_Strict):
    """`/v1/chat/completions`. Sampling is off unless a temperature above 0 is asked for.

    The fields below `safety` are taken where they change nothing here.
    """

    model: str | None = None
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, gt=0)
    max_completion_tokens: int | None = Field(default=None, gt=0)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop: Stops | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    safety: SafetyAsked | None = None
    n: Literal[1] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None


class ModerationRequest(_Strict):
    """`/v1/moderations`: a list of parts is one thing to judge, its text being asked about each of its pictures."""

    model: str | None = None
    input: str | list[str] | list[Part]
    safety: SafetyAsked | None = None


class GuardrailRequest(BaseModel):
    """litellm's generic guardrail: what else a gateway sends about its own request is not looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    input_type: Literal["request", "response"]
    texts: list[str] | None = None
    images: list[str] | None = None


Asked = TypeVar("Asked", bound=BaseModel)


def parsed(raw: bytes, schema: type[Asked]) -> Asked:
    """A request's body.

    Raises:
        RequestRefused: it is no JSON object, or not one of this kind.
    """
    problems: list[str] = []
    found = parse_json(raw, "the body", problems)
    if found is None:
        raise refused_body(problems)
    try:
        return schema.model_validate(found)
    except ValidationError as error:
        raise refused_body(validation_problems(error, limit=5, model=schema)) from error


def refused_body(problems: list[str]) -> RequestRefused:
    """400 with what is wrong with a body."""
    told = without_controls(" ".join(problems))
    return RequestRefused(400, f"not answered: expected a request as documented, got another: {told}", "invalid_body")
