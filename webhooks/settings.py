"""Read every setting from the environment, and say what is wrong with it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

from dotenv import dotenv_values, find_dotenv
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, create_model

from .redact import Redactor

BUCKET = Path("/data")  # where a Space's Storage Bucket is attached

MIN_TOKEN_LENGTH = 16  # characters

_Model = TypeVar("_Model", bound=BaseModel)


class SetupError(ValueError):
    """A setting, a handler or a port is wrong; the text says what to change."""


def check_number(name: str, value: float, minimum: float, *, is_whole: bool = False) -> float:
    """Return a number that was given for a parameter.

    Raises:
        SetupError: it is not a number, too small, or not whole; the text names parameter and value.
    """
    kinds = int if is_whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not minimum <= value < math.inf:
        kind = "whole number" if is_whole else "number"
        raise SetupError(f"{name} must be a {kind} of {minimum:g} or more, not {value!r}.")
    return value


def read_settings(**settings: Any) -> Any:
    """Read settings from environment variables with their names, in capitals.

    An empty variable counts as not set, as a line `NAME=` in a `.env` file is meant.

    Args:
        settings: each with its default, or with its type and its default: `timeout=(Duration, "2h")`.

    Raises:
        SetupError: one line for each wrong setting, without its value, which may be a secret. Also for a variable that
            is empty in the environment and so hides its value in `.env`, which `load_dotenv` leaves alone then.
    """
    fields: dict[str, Any] = {
        name: default if isinstance(default, tuple) else (_kind(default), default)
        for name, default in settings.items()
    }
    return load_settings(create_model("Settings", __config__=ConfigDict(validate_default=True), **fields))


def load_settings(model: type[_Model], environ: Mapping[str, str] | None = None) -> _Model:
    """Like `read_settings`, into the fields of a pydantic model. `environ` replaces the environment."""
    environ = os.environ if environ is None else environ
    variables = {name: environ.get(name.upper(), "").strip() for name in model.model_fields}
    if empty := [name.upper() for name, value in variables.items() if not value and name.upper() in environ]:
        in_file = dotenv_values(find_dotenv(usecwd=True))
        if hidden := [name for name in empty if in_file.get(name)]:
            raise SetupError(
                f"{', '.join(hidden)}: empty in the environment, which hides the value in .env. Unset it."
            )
    given = {name: value for name, value in variables.items() if value}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problems = [
            _problem(model, str(problem["loc"][0]), problem["msg"], given)
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise SetupError("\n".join(problems)) from None


def _kind(default: Any) -> Any:
    return str | None if default is None else type(default)


def _problem(model: type[BaseModel], name: str, message: str, given: Mapping[str, str]) -> str:
    message = message.removeprefix("Value error, ")
    if name not in given:
        return f"The default of {name} is wrong: {message}."
    default = model.model_fields[name].default
    example = str(default).lower() if isinstance(default, bool) else default
    return f"{name.upper()} is wrong: {message}." + ("" if default is None else f" Write, for example, {example}.")


def _check_secret(secret: SecretStr) -> SecretStr:
    """Refuse a secret that the Hub cannot send: a header carries printable ASCII only."""
    if not (secret.get_secret_value().isascii() and secret.get_secret_value().isprintable()):
        raise ValueError("the Hub sends only printable ASCII characters in a secret; choose another one")
    return secret


def _check_token(token: SecretStr) -> SecretStr:
    if len(token.get_secret_value()) < MIN_TOKEN_LENGTH:
        raise ValueError(f"it can be guessed; take at least {MIN_TOKEN_LENGTH} random characters")
    return token


_Secret = Annotated[SecretStr, AfterValidator(_check_secret)]


class Settings(BaseModel):
    """The environment of this server; `.env.example` explains each variable.

    The platform sets the last eight: `SYSTEM` and `SPACE_*` on every Space
    (https://huggingface.co/docs/hub/spaces-overview), the others where the README's front matter says `hf_oauth: true`
    (https://huggingface.co/docs/hub/spaces-oauth).
    """

    model_config = ConfigDict(frozen=True)

    webhook_secret: _Secret | None = None
    webhook_secret_previous: _Secret | None = None
    webhooks_allow_unauthenticated: bool = False
    webhooks_admin_token: Annotated[SecretStr, AfterValidator(_check_token)] | None = None
    webhooks_data_dir: Path | None = None
    webhooks_catch_up: Annotated[float, Field(ge=0)] = 15.0  # minutes
    gradio_share: bool = True
    hf_token: SecretStr | None = None
    dry_run: bool = False
    system: str | None = None
    space_id: str | None = None
    space_host: str | None = None
    space_author_name: str | None = None
    oauth_client_id: str | None = None
    oauth_client_secret: SecretStr | None = None
    oauth_scopes: str | None = None
    openid_provider_url: str | None = None

    @property
    def is_on_space(self) -> bool:
        return self.space_id is not None

    @cached_property
    def secrets(self) -> tuple[bytes, ...]:
        """The secrets that a sender may send: the present one, and the previous one while it is rotated."""
        both = (self.webhook_secret, self.webhook_secret_previous)
        return tuple(secret.get_secret_value().encode() for secret in both if secret)

    @property
    def secret_to_send(self) -> str | None:
        """The secret that this server sends to itself and tells the Hub."""
        return self.secrets[0].decode() if self.secrets else None

    @cached_property
    def redact(self) -> Redactor:
        """Take the secrets of this server out of a text."""
        return Redactor(value.get_secret_value() for _, value in self if isinstance(value, SecretStr))

    @property
    def has_oauth(self) -> bool:
        """Whether people can sign in with Hugging Face: the provider needs all of a Space's settings."""
        given = (self.oauth_client_id, self.oauth_client_secret, self.oauth_scopes, self.openid_provider_url)
        return self.system == "spaces" and self.is_on_space and None not in given

    @property
    def is_closed(self) -> bool:
        """Whether every delivery is refused: a Space is public, so it needs a secret unless it is told otherwise."""
        return self.is_on_space and not self.secrets and not self.webhooks_allow_unauthenticated

    @property
    def has_bucket(self) -> bool:
        """Whether a Storage Bucket is attached to the Space, whose own disk is empty after each restart."""
        return self.is_on_space and BUCKET.is_dir() and os.access(BUCKET, os.W_OK)

    @property
    def data_dir(self) -> Path:
        """The folder of the delivery log."""
        if self.webhooks_data_dir:
            return self.webhooks_data_dir
        return BUCKET / "webhooks" if self.has_bucket else Path(".webhooks")

    @property
    def is_on_bucket(self) -> bool:
        """Whether the log is in a bucket, whose mount has no shared memory for SQLite's WAL mode."""
        return self.has_bucket and self.data_dir.absolute().is_relative_to(BUCKET)

    @property
    def has_lasting_log(self) -> bool:
        """Whether the log survives a restart of the machine."""
        return self.is_on_bucket or not self.is_on_space

    @property
    def space_hosts(self) -> list[str]:
        """The names of the Space: with a custom domain `SPACE_HOST` is a list."""
        return [name.strip() for name in (self.space_host or "").split(",") if name.strip()]

    @property
    def public_url(self) -> str | None:
        """The Space's address, under its first name."""
        return f"https://{self.space_hosts[0]}" if self.space_hosts else None
