"""A mistake in the set-up ends the script with a sentence that says what to change, and no traceback."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from support.processes import Run

from webhooks import WebhookPayload, WebhooksServer

IMPORT = "from webhooks import WebhooksServer, webhook_endpoint\n"
ONE_ENDPOINT = IMPORT + "@webhook_endpoint\ndef trigger(): ...\n"
APP = """
from typing import Annotated
from pydantic import BaseModel, StringConstraints
from webhooks import read_settings

class Settings(BaseModel):
    dataset: Annotated[str, StringConstraints(pattern="/")] = "me/data"
    rows: int = 100

settings = read_settings(Settings)
"""

CHOOSE_PORT = "Stop that program, or choose another port with GRADIO_SERVER_PORT=7870 or launch(server_port=7870)."

# A script, its environment, and what the sentence says.
MISTAKES: dict[str, tuple[str, dict[str, str], str]] = {
    "a parameter that nothing can fill": (
        IMPORT + "@webhook_endpoint\ndef train(payload, model_size): ...",
        {},
        "train() has a parameter 'model_size' that nothing can fill: annotate it",
    ),
    "two handlers on one path": (
        ONE_ENDPOINT + "@webhook_endpoint('trigger')\ndef other(): ...",
        {},
        "There already is a webhook at /webhooks/trigger. Rename the function",
    ),
    "a path that is none": (
        IMPORT + "@webhook_endpoint('/my webhook?')\ndef trigger(): ...",
        {},
        "'/my webhook?' cannot be the path of a webhook: use letters, digits",
    ),
    "no endpoint": (
        IMPORT + "WebhooksServer().launch()",
        {},
        "There is no webhook to serve. Put @webhook_endpoint above a function",
    ),
    "reply_within that is no number": (
        IMPORT + "WebhooksServer(reply_within='soon')",
        {},
        "reply_within must be a number of 0 or more, not 'soon'",
    ),
    "reply_within below 0": (
        IMPORT + "WebhooksServer(reply_within=-1)",
        {},
        "reply_within must be a number of 0 or more, not -1",
    ),
    "max_pending below 1": (
        IMPORT + "WebhooksServer(max_pending=0)",
        {},
        "max_pending must be a whole number of 1 or more, not 0",
    ),
    "a switch neither on nor off": (
        ONE_ENDPOINT,
        {"WEBHOOKS_ALLOW_UNAUTHENTICATED": "maybe"},
        "WEBHOOKS_ALLOW_UNAUTHENTICATED is wrong:",
    ),
    "another switch": (ONE_ENDPOINT, {"GRADIO_SHARE": "perhaps"}, "GRADIO_SHARE is wrong:"),
    "a setting of the app's own": (APP, {"DATASET": "no slash"}, "DATASET is wrong:"),
}


@pytest.mark.parametrize(("script", "environment", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_the_script_with_one_sentence(
    script: str, environment: dict[str, str], sentence: str, run: Run
) -> None:
    process = run(script, **environment)
    assert process.wait_for_exit() == 1
    assert sentence in process.output
    assert len(process.output.splitlines()) == 1, process.output  # so there is no traceback either


def test_two_wrong_settings_are_two_lines(run: Run) -> None:
    process = run(APP, DATASET="no slash", ROWS="many")
    assert process.wait_for_exit() == 1
    assert [line.partition(" ")[0] for line in process.output.splitlines()] == ["DATASET", "ROWS"]


UNSENDABLE = pytest.mark.parametrize(
    "secret", ["schlüsselwort", "key\x07word"], ids=["not ASCII", "control character"]
)


@UNSENDABLE
@pytest.mark.parametrize("name", ["WEBHOOK_SECRET", "WEBHOOK_SECRET_PREVIOUS"])
def test_a_secret_that_the_hub_cannot_send_is_refused_and_not_shown(name: str, secret: str, run: Run) -> None:
    process = run(ONE_ENDPOINT, **{name: secret})
    assert process.wait_for_exit() == 1
    assert f"{name} is wrong: the Hub sends only printable ASCII characters" in process.output
    assert len(process.output.splitlines()) == 1
    assert not any(part in process.output for part in (secret, repr(secret), "schl", "word"))


@pytest.fixture
def port_in_use() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_in_use_ends_the_script_with_one_sentence(port_in_use: int, run: Run) -> None:
    by_hand = run(ONE_ENDPOINT + f"trigger.launch(server_port={port_in_use})", WEBHOOKS_DATA_DIR="by-hand")
    by_itself = run(ONE_ENDPOINT, port=port_in_use, WEBHOOKS_DATA_DIR="by-itself")
    for process in (by_hand, by_itself):
        assert process.wait_for_exit() == 1
        assert "in use by another program" in process.output
        assert CHOOSE_PORT in process.output
        assert len(process.output.splitlines()) == 1, process.output
    assert f"Port {port_in_use} is in use" in by_hand.output


def two_handlers_on_one_path() -> None:
    server = WebhooksServer()
    for _ in range(2):
        server.add_webhook("/train")(lambda: None)


def handler(wants: Any) -> None: ...


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: WebhooksServer().add_webhook(handler), r"handler\(\) has a parameter 'wants'"),
        (two_handlers_on_one_path, "already is a webhook at /webhooks/train"),
        (lambda: WebhooksServer().add_webhook("/ä")(handler), "'/ä' cannot be the path"),
        (lambda: WebhooksServer().add_webhook("")(handler), "'' cannot be the path"),
        (lambda: WebhooksServer().add_webhook("/../admin?")(handler), "cannot be the path"),
        (lambda: WebhooksServer().add_webhook(7), "not 7"),  # type: ignore[call-overload]
        (lambda: WebhooksServer().add_webhook()("no function"), "not 'no function'"),  # type: ignore[type-var]
        (lambda: WebhooksServer().launch(), "no webhook to serve"),
        *(
            (lambda value=value: WebhooksServer(reply_within=value), f"reply_within .* not {value!r}")
            for value in ("soon", -1, float("nan"), float("inf"), True, None)
        ),
        *(
            (lambda value=value: WebhooksServer(max_pending=value), f"max_pending .* not {value!r}")
            for value in (0, "many", 2.5)
        ),
        *(
            (
                lambda n=name, v=value: WebhooksServer().add_webhook("/f", **{n: v})(lambda: None),
                f"{name} .* not {value!r}",
            )
            for name, values in {
                "max_attempts": (0, -1, 1.5, "3", True),
                "timeout": (0, -1, "30s", float("nan")),
                "debounce": (-1, "a minute", float("inf"), None),
            }.items()
            for value in values
        ),
        (lambda: WebhooksServer().replay("0" * 16), "launch"),
    ],
)
def test_a_mistake_is_a_value_error_that_names_it(mistake: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mistake()


@UNSENDABLE
def test_a_secret_given_in_code_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="WEBHOOK_SECRET is wrong") as caught:
        WebhooksServer(webhook_secret=secret)
    assert secret not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__  # the error behind it would show the secret


@pytest.mark.parametrize("name", ["WEBHOOKS_ALLOW_UNAUTHENTICATED", "GRADIO_SHARE", "DRY_RUN"])
def test_a_wrong_switch_in_the_environment_is_a_value_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "maybe")
    with pytest.raises(ValueError, match=f"{name} is wrong"):
        WebhooksServer()


def test_a_server_that_refused_a_handler_keeps_the_others() -> None:
    server = WebhooksServer()

    @server.add_webhook
    def train(payload: WebhookPayload) -> None: ...

    for wrong in (handler, train):
        with pytest.raises(ValueError, match=r"handler|already"):
            server.add_webhook(wrong)
    assert server.registered_webhooks == {"/webhooks/train": train}
