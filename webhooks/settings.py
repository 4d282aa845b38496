"""Every setting of the server, read once from the environment, and the one way to say that one is wrong."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr, ValidationError

BUCKET = Path("/data")  # where a Space's Storage Bucket is attached

_Model = TypeVar("_Model", bound=BaseModel)


class SetupError(SystemExit, ValueError):
    """A mistake in the set-up: a setting, a handler or a port.

    It is a `ValueError` to whoever catches it. Left alone it ends the script with its sentence, exit code 1
    and no traceback, since the mistake is not where the traceback would point.
    """


def at_least(minimum: float, name: str, value: float, *, whole: bool = False) -> float:
    """Return a number that was given for a parameter.

    Raises:
        SetupError: it is no number, too small, or not whole where it has to be; the text names parameter and value.
    """
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not minimum <= value < math.inf:
        raise SetupError(f"{name} must be a {'whole ' * whole}number of {minimum:g} or more, not {value!r}.")
    return value


def read_settings(model: type[_Model], environ: Mapping[str, str] | None = None) -> _Model:
    """Fill a pydantic model from environment variables named like its fields, in capitals.

    A variable that is empty counts as not set, the way a line `NAME=` in a `.env` file is meant.

    Raises:
        SetupError: one line for each variable that does not fit. It shows no value, as it may be a secret.
    """
    environ = os.environ if environ is None else environ
    given = {name: environ.get(name.upper(), "").strip() for name in model.model_fields}
    try:
        return model.model_validate({name: value for name, value in given.items() if value})
    except ValidationError as error:
        problems = [
            _problem(model, str(problem["loc"][0]), problem["msg"])
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise SetupError("\n".join(problems)) from None


def _problem(model: type[BaseModel], name: str, message: str) -> str:
    default = model.model_fields[name].default
    example = "" if default is None else f", such as {str(default).lower() if isinstance(default, bool) else default}"
    return f"{name.upper()} is wrong: {message.removeprefix('Value error, ')}{example}."


def _sendable(secret: SecretStr) -> SecretStr:
    """Refuse a secret that can never arrive: a header carries printable ASCII, and so does the Hub."""
    if not (secret.get_secret_value().isascii() and secret.get_secret_value().isprintable()):
        raise ValueError("the Hub sends only printable ASCII characters in a secret; choose another one")
    return secret


_Secret = Annotated[SecretStr, AfterValidator(_sendable)]


class Settings(BaseModel):
    """What the environment says about this server; `.env.example` explains each one.

    The `space_*` variables are set by the platform (https://huggingface.co/docs/hub/spaces-overview).
    """

    model_config = ConfigDict(frozen=True)

    webhook_secret: _Secret | None = None
    webhook_secret_previous: _Secret | None = None
    webhooks_allow_unauthenticated: bool = False
    webhooks_data_dir: Path | None = None
    gradio_share: bool = True
    hf_token: SecretStr | None = None
    dry_run: bool = False
    space_id: str | None = None
    space_host: str | None = None

    @property
    def on_space(self) -> bool:
        return self.space_id is not None

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """The secrets that a sender may present: the present one, and the last one while it is rotated."""
        both = (self.webhook_secret, self.webhook_secret_previous)
        return tuple(secret.get_secret_value().encode() for secret in both if secret)

    def hide(self, text: str) -> str:
        """Take our secrets out of a text that is to be shown or kept."""
        for secret in (self.webhook_secret, self.webhook_secret_previous, self.hf_token):
            text = text.replace(secret.get_secret_value(), "***") if secret else text
        return text

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
    def public_url(self) -> str | None:
        """The Space's own address. With a custom domain `SPACE_HOST` is a list; its first name is used."""
        return f"https://{self.space_host.split(',')[0].strip()}" if self.space_host else None
