"""Limits and switches of a server: each has a safe default, and may be set by an option or an environment variable."""

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from safety_modules.errors import ConfigError, validation_problems

PREFIX = "SAFETY_MODULES_SERVE_"
Kind = TypeVar("Kind", bound=BaseSettings)


class ServeSettings(BaseSettings):
    """How one server behaves. Each field is also an environment variable: `SAFETY_MODULES_SERVE_` and its name.

    Attributes:
        host: address to listen on; others than this machine's own need keys.
        port: 0 = a free one.
        access: file of keys and of what each may (docs/serving.md); None = no keys, this machine only.
        image_hosts: hosts that pictures may be fetched from, comma-separated in the environment; none: data URIs only.
        max_body_bytes: of a request.
        max_images: of a request.
        max_image_bytes: of an encoded picture.
        max_pixels: of a decoded picture, before it is decoded; of an animation of all its frames that are looked at.
        max_messages: of a conversation.
        max_characters: of all texts of a request.
        max_prompt_tokens: image tokens counted.
        max_tokens: of an answer.
        default_max_tokens: of an answer whose length nobody asked for.
        max_queue: requests that are waiting or being answered; more are told to come back (503).
        max_batch: requests that are answered in one call.
        max_batch_tokens: prompt tokens of these, padding counted.
        batch_wait: seconds that a call waits for company.
        request_seconds: from the last byte of a request to the last of its answer.
        body_seconds: a client has for a request's headers, and again for its body.
        fetch_seconds: for a picture from an allowed host, redirects counted.
        replicas: of the model, behind Ray Serve; 1 = none of it, one process.
        replica_gpus: each asks for; None = 1 where the cluster has some, else 0; a fraction shares one.
        workers: threads that read requests and decode pictures.
        log: whether every request is a line on standard output.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    access: Path | None = None
    image_hosts: Annotated[frozenset[str], NoDecode] = frozenset()
    max_body_bytes: int = Field(default=20_000_000, gt=0)
    max_images: int = Field(default=8, gt=0)
    max_image_bytes: int = Field(default=10_000_000, gt=0)
    max_pixels: int = Field(default=40_000_000, gt=0)
    max_messages: int = Field(default=100, gt=0)
    max_characters: int = Field(default=50_000, gt=0)
    max_prompt_tokens: int = Field(default=8_192, gt=0)
    max_tokens: int = Field(default=1_024, gt=0)
    default_max_tokens: int = Field(default=256, gt=0)
    max_queue: int = Field(default=128, gt=0)
    max_batch: int = Field(default=16, gt=0)
    max_batch_tokens: int = Field(default=32_768, gt=0)
    batch_wait: float = Field(default=0.01, ge=0, le=1)
    request_seconds: float = Field(default=120, gt=0)
    body_seconds: float = Field(default=20, gt=0)
    fetch_seconds: float = Field(default=5, gt=0)
    replicas: int = Field(default=1, gt=0)
    replica_gpus: float | None = Field(default=None, ge=0)
    workers: int = Field(default=2, gt=0)
    log: bool = True

    @field_validator("image_hosts", mode="before")
    @classmethod
    def _hosts(cls, hosts: object) -> object:
        names = hosts.split(",") if isinstance(hosts, str) else hosts
        return frozenset(str(name).strip().lower() for name in names) - {""} if isinstance(names, Iterable) else names

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check_reachable(self, keys: bool) -> None:
        """Raises ConfigError for a server without keys that other machines can reach."""
        if not keys and not self.on_loopback:
            raise ConfigError(
                f"not served: expected keys for a server that others can reach, got none for {self.host}. Name a file "
                "of keys (--access), or serve this machine alone (--host 127.0.0.1)."
            )


def read_settings(kind: type[Kind], **given: Any) -> Kind:
    """Settings of this kind: what is given and not None, then the environment. Raises ConfigError naming problems."""
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ConfigError("settings refused: " + " ".join(validation_problems(error, model=kind))) from error
