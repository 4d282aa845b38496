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

# A script, its environment, and what the sentence says: one for each place where a mistake can come up.
MISTAKES: dict[str, tuple[str, dict[str, str], str]] = {
    "in a handler": (
        IMPORT + "@webhook_endpoint\ndef train(payload, *models): ...",
        {},
        "train(), for a webhook, has a parameter that nothing can fill: '*models'.",
    ),
    "at the launch": (
        IMPORT + "WebhooksServer().launch()",
        {},
        "No webhook to serve: put @webhook_endpoint or @server.add_webhook above a function",
    ),
    "in a setting of the server's": (ONE_ENDPOINT, {"GRADIO_SHARE": "perhaps"}, "GRADIO_SHARE is wrong:"),
    "in a setting of the app's": (APP, {"DATASET": "no slash"}, "DATASET is wrong:"),
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


def handler(*wants: Any) -> None: ...


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: WebhooksServer().add_webhook("")(handler), "'' cannot be the path"),
        (lambda: WebhooksServer().add_webhook(7), "not 7"),  # type: ignore[call-overload]
        (lambda: WebhooksServer().add_webhook()("no function"), "not 'no function'"),  # type: ignore[type-var]
        (lambda: WebhooksServer().launch(), "No webhook to serve"),
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


@pytest.mark.parametrize("secret", ["schlüsselwort", "key\x07word"], ids=["not ASCII", "control character"])
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
