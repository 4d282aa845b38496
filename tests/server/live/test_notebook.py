"""In a notebook a server starts by `.run()`, and no cell waits for its end."""

from pathlib import Path

import httpx
import nbformat
import pytest
from nbclient import NotebookClient
from support.payloads import load
from support.processes import Process, clean_environment, free_port

PAYLOAD = load("repo.content-update")
REGISTER = """
from webhooks import WebhookPayload, webhook_endpoint

@webhook_endpoint
async def {name}(payload: WebhookPayload):
    return payload.repo.name
"""


def test_run_starts_the_server_and_returns(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/webhooks"
    notebook = nbformat.v4.new_notebook()
    client = NotebookClient(notebook, kernel_name="python3", timeout=60, resources={"metadata": {"path": tmp_path}})

    def run_cell(source: str) -> str:
        """Run one more cell, and return what it printed. An error in the cell fails the test."""
        notebook.cells.append(nbformat.v4.new_code_cell(source))
        cell = client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)
        return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")

    def post(name: str) -> object:
        return httpx.post(f"{url}/{name}", json=PAYLOAD).json()

    with client.setup_kernel(env=clean_environment(GRADIO_SERVER_PORT=str(port))):
        run_cell(REGISTER.format(name="trigger_training"))
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
        assert f"POST {url}/trigger_training" in run_cell("trigger_training.run()")
        assert post("trigger_training") == PAYLOAD["repo"]["name"]
        # A handler of a later cell is reached at once, and `.run()` only prints again.
        assert Process.READY not in run_cell(REGISTER.format(name="trigger_evaluation"))
        assert post("trigger_evaluation") == PAYLOAD["repo"]["name"]
        assert f"POST {url}/trigger_evaluation" in run_cell("trigger_evaluation.run()")
