"""Settings: what they mean, and a wrong one is reported so that it can be put right."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr

import webhooks.settings
from webhooks import SetupError, read_settings
from webhooks.settings import Settings


class Example(BaseModel):
    color: str = "red"
    size: int = 1
    strict: bool = False
    key: SecretStr | None = None


def test_a_variable_is_read_by_the_name_of_the_field_in_capitals() -> None:
    environ = {"COLOR": "blue", "SIZE": "2", "STRICT": "true", "KEY": "k", "size": "3", "OTHER": "4"}
    assert read_settings(Example, environ) == Example(color="blue", size=2, strict=True, key=SecretStr("k"))


@pytest.mark.parametrize("empty", ["", " ", "\t\n"])
def test_an_empty_variable_counts_as_not_set(empty: str) -> None:
    assert read_settings(Example, dict.fromkeys(["COLOR", "SIZE", "STRICT", "KEY"], empty)) == Example()


def test_spaces_around_a_value_are_not_part_of_it() -> None:
    assert read_settings(Example, {"COLOR": " dark blue\n", "SIZE": " 2 "}) == Example(color="dark blue", size=2)


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOR", "green")
    assert read_settings(Example).color == "green"


def test_every_wrong_variable_gets_a_line_that_names_it_and_shows_no_value() -> None:
    with pytest.raises(SetupError) as error:
        read_settings(Example, {"COLOR": "blue", "SIZE": "hunter2", "STRICT": "hunter3"})
    lines = str(error.value).splitlines()
    assert [line.partition(" is wrong: ")[0] for line in lines] == ["SIZE", "STRICT"]
    assert all(line.endswith(".") for line in lines)
    assert "hunter" not in str(error.value)


def test_a_wrong_setting_is_a_value_error_without_the_one_behind_it_that_would_show_the_value() -> None:
    with pytest.raises(ValueError, match="SIZE") as error:
        read_settings(Example, {"SIZE": "big"})
    assert error.value.__suppress_context__


@pytest.mark.parametrize("name", ["WEBHOOK_SECRET", "WEBHOOK_SECRET_PREVIOUS"])
@pytest.mark.parametrize("secret", ["hunter2ä", "hunter2\nhunter2", "hunter2\x00x", "hunter2\t2", "hunter2🤗"])
def test_a_secret_that_the_hub_cannot_send_is_refused_without_showing_it(name: str, secret: str) -> None:
    with pytest.raises(SetupError) as error:
        read_settings(Settings, {name: secret})
    assert str(error.value).startswith(f"{name} is wrong: the Hub sends only printable ASCII")
    assert "hunter" not in str(error.value)


# --- what the settings mean


def settings(**environ: str) -> Settings:
    return read_settings(Settings, {name.upper(): value for name, value in environ.items()})


@pytest.mark.parametrize(
    ("environ", "secrets"),
    [
        ({}, ()),
        ({"webhook_secret": "new"}, (b"new",)),
        ({"webhook_secret": "new", "webhook_secret_previous": "old"}, (b"new", b"old")),
        ({"webhook_secret_previous": "old"}, (b"old",)),
        ({"webhook_secret": "", "webhook_secret_previous": ""}, ()),
    ],
)
def test_the_previous_secret_stays_good_while_it_is_changed(
    environ: dict[str, str], secrets: tuple[bytes, ...]
) -> None:
    assert settings(**environ).secrets == secrets


def test_secrets_do_not_show_when_settings_are_printed() -> None:
    printed = settings(webhook_secret="hunter1", webhook_secret_previous="hunter2", hf_token="hf_hunter3")
    assert "hunter" not in repr(printed) + str(printed) + str(printed.model_dump()) + printed.model_dump_json()


def test_settings_do_not_change_while_the_server_runs() -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings().dry_run = True


@pytest.mark.parametrize(
    ("environ", "closed"),
    [
        ({"space_id": "me/hooks"}, True),
        ({"space_id": "me/hooks", "webhook_secret": ""}, True),
        ({"space_id": "me/hooks", "webhooks_allow_unauthenticated": "false"}, True),
        ({"space_id": "me/hooks", "webhooks_allow_unauthenticated": "true"}, False),
        ({"space_id": "me/hooks", "webhook_secret": "s"}, False),
        ({"space_id": "me/hooks", "webhook_secret_previous": "s"}, False),
        ({}, False),
        ({"webhook_secret": "s"}, False),
    ],
)
def test_a_space_without_a_secret_is_closed_unless_it_is_told_to_be_open(
    environ: dict[str, str], closed: bool
) -> None:
    assert settings(**environ).closed is closed
    assert settings(**environ).on_space is ("space_id" in environ)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", None),
        ("me-hooks.hf.space", "https://me-hooks.hf.space"),
        ("me-hooks.hf.space,hooks.example.org", "https://me-hooks.hf.space"),
        (" me-hooks.hf.space , hooks.example.org ", "https://me-hooks.hf.space"),
    ],
)
def test_the_public_url_is_the_first_host_of_the_space(host: str, url: str | None) -> None:
    assert settings(space_host=host).public_url == url


# --- Where the delivery log is


def test_the_log_is_where_it_was_asked_to_be_else_in_the_bucket_else_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = tmp_path / "data"
    monkeypatch.setattr(webhooks.settings, "BUCKET", bucket)
    assert Settings().data_dir == Settings(space_id="me/hooks").data_dir == Path(".webhooks")
    bucket.mkdir()
    assert Settings().data_dir == Path(".webhooks"), "outside a Space /data is somebody else's"
    assert Settings(space_id="me/hooks").data_dir == bucket / "webhooks"
    asked = read_settings(Settings, {"SPACE_ID": "me/hooks", "WEBHOOKS_DATA_DIR": "/elsewhere"})
    assert asked.data_dir == Path("/elsewhere")


def test_only_a_log_in_the_bucket_does_without_wal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bucket = tmp_path / "data"
    bucket.mkdir()
    monkeypatch.setattr(webhooks.settings, "BUCKET", bucket)
    assert Settings(space_id="me/hooks").on_shared_disk
    assert Settings(space_id="me/hooks", webhooks_data_dir=bucket / "mine").on_shared_disk
    assert not Settings(space_id="me/hooks", webhooks_data_dir=tmp_path).on_shared_disk
    assert not Settings(webhooks_data_dir=bucket).on_shared_disk


def test_secrets_are_taken_out_of_what_is_shown() -> None:
    settings = Settings(webhook_secret="one", webhook_secret_previous="two", hf_token="three")
    assert settings.redact("one two three four") == "*** *** *** four"
    assert Settings().redact("one") == "one"
