"""A script's server starts once the script has ended normally, and not otherwise."""

from pathlib import Path

import pytest
from support.payloads import load
from support.processes import Process, Run

UPDATE = load("repo.content-update")

DECORATED = """
from webhooks import webhook_endpoint

@webhook_endpoint
def trigger(payload):
    return "triggered"
"""
EXPLICIT = """
from webhooks import WebhooksServer

server = WebhooksServer()

@server.add_webhook
def trigger(payload):
    return "triggered"
"""
BOTH = pytest.mark.parametrize("source", [DECORATED, EXPLICIT], ids=["webhook_endpoint", "WebhooksServer"])


def assert_serves(server: Process) -> None:
    assert server.post("trigger", UPDATE).json() == "triggered"
    server.interrupt()
    assert server.wait_for_exit() == 0
    assert "Traceback" not in server.output
    assert server.output.count(Process.READY) == 1


@BOTH
def test_a_server_starts_at_the_scripts_end(serve: Run, source: str) -> None:
    assert_serves(serve(source + "try:\n    raise LookupError\nexcept LookupError:\n    pass\n"))


@pytest.mark.parametrize("first_import", ["", "import gradio"], ids=["webhooks first", "gradio first"])
def test_threads_and_executors_work_after_the_end(first_import: str, serve: Run, tmp_path: Path) -> None:
    (tmp_path / "more_handlers.py").write_text(DECORATED, encoding="utf-8")
    server = serve(
        first_import
        + """
import asyncio
from concurrent.futures import ThreadPoolExecutor
from webhooks import webhook_endpoint
import more_handlers

@webhook_endpoint
def sync():
    with ThreadPoolExecutor(2) as pool:
        return [pool.submit(int).result(), asyncio.run(asyncio.to_thread(int))]

@webhook_endpoint
async def in_loop():
    return [await asyncio.to_thread(int), await asyncio.get_running_loop().run_in_executor(None, int)]
"""
    )
    assert server.post("sync").json() == server.post("in_loop").json() == [0, 0]
    assert_serves(server)


ENDINGS = {
    "raise": ("raise LookupError('gone wrong')", 1, "LookupError: gone wrong"),
    "exit 1": ("import sys; sys.exit(1)", 1, ""),
    "exit 0": ("import sys; sys.exit(0)", 0, ""),
}


@BOTH
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_script_that_raises_or_exits_starts_none(run: Run, source: str, ending: str) -> None:
    last, code, shown = ENDINGS[ending]
    script = run(source + last)
    assert script.wait_for_exit() == code
    assert shown in script.output
    assert ("Traceback" in script.output) == (ending == "raise")
    assert Process.READY not in script.output


def test_an_imported_server_does_not_start(run: Run, tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(EXPLICIT, encoding="utf-8")
    script = run("import handlers\nprint('imported')")
    assert script.wait_for_exit() == 0
    assert script.output == "imported\n"


def test_a_run_that_ended_does_not_start_again(serve: Run) -> None:
    server = serve(DECORATED + "trigger.run()\nprint('the end')")
    assert_serves(server)
    assert "the end" in server.output


TOOL = "import runpy, sys\nrunpy.run_path('app.py', run_name='__main__')\nsys.exit()\n"
# A script that replaces its process by another run of the interpreter.
RUN_AS = "import os, sys\nos.execv(sys.executable, [sys.executable, *{arguments}])"


@BOTH
@pytest.mark.parametrize("arguments", [["-m", "coverage", "run", "app.py"], ["-m", "tool"]], ids=["coverage", "runpy"])
def test_a_tool_that_runs_the_script_starts_it(serve: Run, tmp_path: Path, source: str, arguments: list[str]) -> None:
    (tmp_path / "app.py").write_text(source, encoding="utf-8")
    (tmp_path / "tool.py").write_text(TOOL, encoding="utf-8")
    assert_serves(serve(RUN_AS.format(arguments=arguments)))
