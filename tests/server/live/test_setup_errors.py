"""A mistake in the set-up ends the script with code 1, and its last line says what to change."""

from support.processes import Run

ONE_ENDPOINT = "from webhooks import webhook_endpoint\n@webhook_endpoint\ndef trigger(): ...\n"


def test_a_mistake_ends_the_script_with_a_sentence(run: Run) -> None:
    process = run(ONE_ENDPOINT, GRADIO_SHARE="perhaps")
    assert process.wait_for_exit() == 1
    assert "GRADIO_SHARE is wrong:" in process.output.splitlines()[-1]
