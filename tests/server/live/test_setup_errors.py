"""A mistake in the set-up ends the script with code 1, and its last line says what to change."""

import socket
from collections.abc import Iterator

import pytest
from support.processes import Run

ONE_ENDPOINT = "from webhooks import webhook_endpoint\n@webhook_endpoint\ndef trigger(): ...\n"


def test_a_mistake_ends_the_script_with_a_sentence(run: Run) -> None:
    process = run(ONE_ENDPOINT, GRADIO_SHARE="perhaps")
    assert process.wait_for_exit() == 1
    assert "GRADIO_SHARE is wrong:" in process.output.splitlines()[-1]


@pytest.fixture
def port_in_use() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_in_use_ends_the_script_with_a_sentence(port_in_use: int, run: Run) -> None:
    by_hand = run(ONE_ENDPOINT + f"trigger.launch(server_port={port_in_use})", WEBHOOKS_DATA_DIR="by-hand")
    by_itself = run(ONE_ENDPOINT, port=port_in_use, WEBHOOKS_DATA_DIR="by-itself")
    for process in (by_hand, by_itself):
        assert process.wait_for_exit() == 1
        last = process.output.splitlines()[-1]
        assert "in use by another program" in last
        assert "choose another port with GRADIO_SERVER_PORT=7870 or launch(server_port=7870)." in last
    assert f"Port {port_in_use} is in use" in by_hand.output
