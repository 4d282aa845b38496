"""Every setting of the server, read once from the environment, and the one way to say that one is wrong."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, TypeVar, overload

from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr, ValidationError, create_model

from .redact import Redactor

BUCKET = Path("/data")  # where a Space's Storage Bucket is attached

MIN_TOKEN = 16  # characters of an owner's token that somebody chose

_Model = TypeVar("_Model", bound=BaseModel)


class SetupError(ValueError):
    """A mistake in the set-up: a setting, a handler or a port.

    Left alone it ends the script with its sentence and exit code 1, without a traceback: the mistake is not where that
    would point.
    """


def _show_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, SetupError):
        print(error, file=sys.stderr)
    else:
        _show_any_other(kind, error, traceback)


# Not a `SystemExit`, which would need no hook: raised while pytest imports the app, or while the app is reloaded in
# place, it ends pytest or the reload without a word.
_show_any_other, sys.excepthook = sys.excepthook, _show_uncaught


def at_least(minimum: float, name: str, value: float, *, whole: bool = False) -> float:
    """Return a number that was given for a parameter.

    Raises:
        SetupError: it is no number, too small, or not whole where it has to be; the text names parameter and value.
    """
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not minimum <= value < math.inf:
        raise SetupError(f"{name} must be a {'whole ' * whole}number of {minimum:g} or more, not {value!r}.")
    return value


@overload
def read_settings(model: type[_Model], environ: Mapping[str, str] | None = None, /) -> _Model: ...


@overload
def read_settings(**settings: Any) -> Any: ...


def read_settings(model: Any = None, environ: Mapping[str, str] | None = None, /, **settings: Any) -> Any:
    """Read settings from environment variables with their names, in capitals.

    A variable that is empty counts as not set, the way a line `NAME=` in a `.env` file is meant.

    Args:
        model: a pydantic model that has them as its fields, instead of the following.
        environ: where to look; by default the environment.
        settings: each with its default, or with its type and its default: `timeout=(Duration, "2h")`.

    Raises:
        SetupError: one line for each setting that does not fit. It shows no variable's value, which may be a secret.
    """
    if model is None:
        fields: dict[str, Any] = {
            name: default if isinstance(default, tuple) else (_kind(default), default)
            for name, default in settings.items()
        }
        model = create_model("Settings", __config__=ConfigDict(validate_default=True), **fields)
    environ = os.environ if environ is None else environ
    given = {name: environ.get(name.upper(), "").strip() for name in model.model_fields}
    given = {name: value for name, value in given.items() if value}
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


def _sendable(secret: SecretStr) -> SecretStr:
    """Refuse a secret that can never arrive: a header carries printable ASCII, and so does the Hub."""
    if not (secret.get_secret_value().isascii() and secret.get_secret_value().isprintable()):
        raise ValueError("the Hub sends only printable ASCII characters in a secret; choose another one")
    return secret


def _unguessable(token: SecretStr) -> SecretStr:
    if len(token.get_secret_value()) < MIN_TOKEN:
        raise ValueError(f"whoever guesses it sees everything; take at least {MIN_TOKEN} random characters")
    return token


_Secret = Annotated[SecretStr, AfterValidator(_sendable)]


class Settings(BaseModel):
    """What the environment says about this server; `.env.example` explains each one.

    The last eight are set by the platform: `SYSTEM` and `SPACE_*` on every Space
    (https://huggingface.co/docs/hub/spaces-overview), the others where the README's front matter says `hf_oauth: true`
    (https://huggingface.co/docs/hub/spaces-oauth).
    """

    model_config = ConfigDict(frozen=True)

    webhook_secret: _Secret | None = None
    webhook_secret_previous: _Secret | None = None
    webhooks_allow_unauthenticated: bool = False
    webhooks_admin_token: Annotated[SecretStr, AfterValidator(_unguessable)] | None = None
    webhooks_data_dir: Path | None = None
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
    def on_space(self) -> bool:
        return self.space_id is not None

    @cached_property
    def secrets(self) -> tuple[bytes, ...]:
        """The secrets that a sender may present: the present one, and the last one while it is rotated."""
        both = (self.webhook_secret, self.webhook_secret_previous)
        return tuple(secret.get_secret_value().encode() for secret in both if secret)

    @property
    def secret_to_send(self) -> str | None:
        """The secret that a sender of ours presents, and that the Hub is told."""
        return self.secrets[0].decode() if self.secrets else None

    @cached_property
    def redact(self) -> Redactor:
        """Takes our secrets out of a text that is to be shown or kept: `redact(text)`."""
        return Redactor(value.get_secret_value() for _, value in self if isinstance(value, SecretStr))

    @property
    def oauth(self) -> bool:
        """Whether people can sign in with Hugging Face.

        All that a Space has must be there: the provider answers to nobody else.
        """
        given = (self.oauth_client_id, self.oauth_client_secret, self.oauth_scopes, self.openid_provider_url)
        return self.system == "spaces" and self.on_space and None not in given

    @property
    def closed(self) -> bool:
        """A Space is public: without a secret it takes nothing, unless it is told to."""
        return self.on_space and not self.secrets and not self.webhooks_allow_unauthenticated

    @property
    def has_bucket(self) -> bool:
        """A Space's own disk is empty after each restart; what has to last goes to an attached Storage Bucket."""
        return self.on_space and BUCKET.is_dir() and os.access(BUCKET, os.W_OK)

    @property
    def data_dir(self) -> Path:
        """The folder of the delivery log."""
        if self.webhooks_data_dir:
            return self.webhooks_data_dir
        return BUCKET / "webhooks" if self.has_bucket else Path(".webhooks")

    @property
    def on_shared_disk(self) -> bool:
        """A bucket's mount knows no memory shared between its clients, which SQLite's WAL needs."""
        return self.has_bucket and self.data_dir.absolute().is_relative_to(BUCKET)

    @property
    def space_hosts(self) -> list[str]:
        """The names of the Space: with a custom domain `SPACE_HOST` is a list."""
        return [name.strip() for name in (self.space_host or "").split(",") if name.strip()]

    @property
    def public_url(self) -> str | None:
        """The Space's own address, under its first name."""
        return f"https://{self.space_hosts[0]}" if self.space_hosts else None
