"""What settings mean, and how a wrong setting is reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr

import webhooks.settings
from webhooks import SetupError, WebhooksServer
from webhooks.settings import Settings, load_settings


class Example(BaseModel):
    color: str = "red"
    size: int = 1
    strict: bool = False
    key: SecretStr | None = None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"COLOR": "blue", "SIZE": "2", "STRICT": "true", "KEY": "k", "size": "3", "OTHER": "4"},
            Example(color="blue", size=2, strict=True, key=SecretStr("k")),
        ),
        ({"COLOR": "", "SIZE": " ", "STRICT": "\t\n", "KEY": ""}, Example()),
        ({"COLOR": " dark blue\n", "SIZE": " 2 "}, Example(color="dark blue", size=2)),
    ],
    ids=["capitals", "empty", "spaces"],
)
def test_a_setting_is_read_by_its_name(environ: dict[str, str], expected: Example) -> None:
    assert load_settings(Example, environ) == expected


def test_each_wrong_setting_is_named_without_its_value() -> None:
    with pytest.raises(SetupError) as error:
        load_settings(Example, {"COLOR": "blue", "SIZE": "hunter2", "STRICT": "hunter3"})
    lines = str(error.value).splitlines()
    assert [line.partition(" is wrong: ")[0] for line in lines] == ["SIZE", "STRICT"]
    assert all(line.endswith(".") for line in lines)
    assert "hunter" not in str(error.value)
    assert error.value.__suppress_context__  # the error behind it shows the value


@pytest.mark.parametrize("name", ["WEBHOOK_SECRET", "WEBHOOK_SECRET_PREVIOUS"])
@pytest.mark.parametrize("secret", ["hunter2ä", "hunter2\nhunter2"], ids=ascii)
def test_a_secret_the_hub_cannot_send_is_refused(name: str, secret: str) -> None:
    with pytest.raises(SetupError) as error:
        load_settings(Settings, {name: secret})
    assert str(error.value).startswith(f"{name} is wrong: the Hub sends only printable ASCII")
    assert "hunter" not in str(error.value)


# --- what the settings mean


def settings(**environ: str) -> Settings:
    return load_settings(Settings, {name.upper(): value for name, value in environ.items()})


def test_an_empty_secret_beside_dotenv_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_dotenv` does not replace an empty variable, so the value in .env would be ignored."""
    (tmp_path / ".env").write_text("WEBHOOK_SECRET=from-the-file\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEBHOOK_SECRET", "")
    with pytest.raises(SetupError, match="WEBHOOK_SECRET") as error:
        WebhooksServer()
    assert "from-the-file" not in str(error.value)


# --- the folder of the log


def test_the_log_is_in_the_setting_the_bucket_or_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bucket = tmp_path / "data"
    monkeypatch.setattr(webhooks.settings, "BUCKET", bucket)
    assert Settings().data_dir == Settings(space_id="me/hooks").data_dir == Path(".webhooks")
    bucket.mkdir()
    assert Settings().data_dir == Path(".webhooks"), "outside a Space /data belongs to another program"
    in_bucket, elsewhere = Settings(space_id="me/hooks"), settings(space_id="me/hooks", webhooks_data_dir="/elsewhere")
    assert (in_bucket.data_dir, in_bucket.is_on_bucket) == (bucket / "webhooks", True)
    assert (elsewhere.data_dir, elsewhere.is_on_bucket) == (Path("/elsewhere"), False)
