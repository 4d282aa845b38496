"""A script with `@webhook_endpoint` starts its server when it has ended normally, once, and not otherwise."""

import json
from pathlib import Path

import pytest
from support.payloads import load
from support.processes import Process, Run

UPDATE = load("repo.content-update")

ONE_ENDPOINT = """
from webhooks import webhook_endpoint

@webhook_endpoint
def trigger(payload):
    return "triggered"
"""

# A script that hands its process over to another run of the interpreter, with these arguments.
RUN_AS = "import os, sys\nos.execv(sys.executable, [sys.executable, *{arguments}])"


def ends_by_ctrl_c(server: Process) -> bool:
    server.interrupt()
    code = server.wait_for_exit()
    assert "Traceback" not in server.output, server.output
    return code == 0


@pytest.mark.parametrize("first_import", ["", "import gradio"], ids=["webhooks first", "gradio first"])
def test_one_server_starts_for_all_endpoints_with_threads_and_executors(
    first_import: str, serve: Run, tmp_path: Path
) -> None:
    (tmp_path / "more_handlers.py").write_text(ONE_ENDPOINT, encoding="utf-8")
    server = serve(
        first_import
        + """
import asyncio, threading
from concurrent.futures import ThreadPoolExecutor
from webhooks import webhook_endpoint
import more_handlers

def in_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]

def in_pool(function):
    with ThreadPoolExecutor(2) as pool:
        return pool.submit(function).result()

@webhook_endpoint
def sync():
    return [in_thread(int), in_pool(int), asyncio.run(asyncio.to_thread(int))]

@webhook_endpoint
async def in_loop():
    loop = asyncio.get_running_loop()
    return [
        await asyncio.to_thread(int),
        await loop.run_in_executor(None, int),
        await loop.run_in_executor(ThreadPoolExecutor(2), int),
        await asyncio.to_thread(in_thread, int),
    ]

try:  # an error that the script handles is none
    raise LookupError
except LookupError:
    pass
"""
    )
    assert server.post("trigger", UPDATE).json() == "triggered"
    for name, zeros in (("sync", 3), ("in_loop", 4)):
        answer = server.post(name)
        assert (answer.status_code, answer.json()) == (200, [0] * zeros)
    assert ends_by_ctrl_c(server)
    assert server.output.count(Process.READY) == 1


@pytest.mark.parametrize(
    ("ending", "code", "shown"),
    [
        ("raise LookupError('gone wrong')", 1, "LookupError: gone wrong"),
        ("import sys; sys.exit(1)", 1, ""),
        ("import sys; sys.exit(0)", 0, ""),
        ("import argparse; argparse.ArgumentParser('tool').parse_args(['--help'])", 0, "usage: tool"),
    ],
    ids=["raise", "exit 1", "exit 0", "argparse --help"],
)
def test_a_script_that_raises_or_exits_does_not_start_the_server(run: Run, ending: str, code: int, shown: str) -> None:
    script = run(ONE_ENDPOINT + ending)
    assert script.wait_for_exit() == code
    assert shown in script.output
    assert ("Traceback" in script.output) == ending.startswith("raise")
    assert Process.READY not in script.output


def test_a_server_started_by_hand_ends_with_the_script_when_it_need_not_wait(run: Run) -> None:
    script = run(
        ONE_ENDPOINT
        + """
import httpx, os

trigger.launch(prevent_thread_lock=True)
url = f"http://127.0.0.1:{os.environ['GRADIO_SERVER_PORT']}/webhooks/trigger"
print("answered", httpx.post(url, content=os.environ["PAYLOAD"]).json())
""",
        PAYLOAD=json.dumps(UPDATE),
    )
    assert script.wait_for_exit() == 0
    assert "answered triggered" in script.output
    assert script.output.count(Process.READY) == 1


def test_a_server_started_and_stopped_by_hand_is_not_started_again(serve: Run) -> None:
    server = serve(ONE_ENDPOINT + "trigger.run()\nprint('the end')")
    assert server.post("trigger", UPDATE).json() == "triggered"
    assert ends_by_ctrl_c(server)
    assert "the end" in server.output
    assert server.output.count(Process.READY) == 1


def test_a_handler_registered_in_the_main_function_of_a_module_starts_the_server(serve: Run, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(
        """
def main():
    from webhooks import webhook_endpoint

    @webhook_endpoint
    def trigger(payload):
        return "triggered"

if __name__ == "__main__":
    main()
""",
        encoding="utf-8",
    )
    server = serve(RUN_AS.format(arguments=["-m", "hooks"]))
    assert server.post("trigger", UPDATE).json() == "triggered"


def test_a_test_run_that_imports_handlers_ends(run: Run, tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(ONE_ENDPOINT, encoding="utf-8")
    (tmp_path / "check.py").write_text(
        "from handlers import trigger\n\ndef test_it():\n    assert trigger(None) == 'triggered'\n", encoding="utf-8"
    )
    tests = run(RUN_AS.format(arguments=["-m", "pytest", "-q", "check.py"]))
    assert tests.wait_for_exit() == 0
    assert "1 passed" in tests.output
    assert Process.READY not in tests.output


def test_a_debugger_keeps_its_events_and_the_server_starts(serve: Run) -> None:
    server = serve(
        """
        import sys
        from webhooks import webhook_endpoint

        seen = []

        def debugger(frame, event, arg):
            if frame.f_globals is globals():
                seen.append(f"{frame.f_code.co_name} {event} {frame.f_lineno}")
            return debugger

        sys.settrace(debugger)
        sys._getframe().f_trace = debugger

        @webhook_endpoint
        def events():
            return seen

        def work():
            return 1

        work()
        """
    )
    events = server.post("events").json()
    assert "<module> line 22" in events
    assert {"work call 19", "work line 20", "work return 20"} <= set(events)
