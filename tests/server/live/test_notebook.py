"""In a notebook a server starts by `.run()`, never by itself, and no cell waits for it to stop."""

import sys
from pathlib import Path

import httpx
import nbformat
import pytest
from nbclient import NotebookClient
from support.payloads import load
from support.processes import Process, clean_environment, free_port

pytestmark = pytest.mark.long

PAYLOAD = load("repo.content-update")
REGISTER = """
from webhooks import WebhookPayload, webhook_endpoint

@webhook_endpoint
async def {name}(payload: WebhookPayload):
    return payload.repo.name
"""
POST = """
import httpx, sys

answer = httpx.post({url!r}, json={payload!r})
print(sys.executable, answer.status_code, answer.json())
"""


def test_run_starts_the_server_and_gives_the_notebook_back(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/webhooks"
    notebook = nbformat.v4.new_notebook()
    client = NotebookClient(notebook, kernel_name="python3", timeout=60, resources={"metadata": {"path": tmp_path}})

    def run_cell(source: str) -> str:
        """Run one more cell to its end and return what it printed; a cell that raises fails the test."""
        notebook.cells.append(nbformat.v4.new_code_cell(source))
        cell = client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)
        return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")

    def answer_to(name: str) -> str:
        return run_cell(POST.format(url=f"{url}/{name}", payload=PAYLOAD)).strip()

    answered = f"{sys.executable} 200 {PAYLOAD['repo']['name']}"
    with client.setup_kernel(env=clean_environment(GRADIO_SERVER_PORT=str(port))):
        assert run_cell(REGISTER.format(name="trigger_training")) == ""
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)

        assert f"POST {url}/trigger_training" in run_cell("trigger_training.run()")
        assert answer_to("trigger_training") == answered
        assert httpx.post(f"{url}/trigger_training", json=PAYLOAD).status_code == 200

        # A handler of a later cell is reachable at once, and .run() only prints again.
        assert Process.READY not in run_cell(REGISTER.format(name="trigger_evaluation"))
        assert answer_to("trigger_evaluation") == answered
        assert f"POST {url}/trigger_evaluation" in run_cell("trigger_evaluation.run()")
