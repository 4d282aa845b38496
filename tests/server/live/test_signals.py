"""Signals belong to the program, except while `launch` waits."""

from __future__ import annotations

from support.engines import rows
from support.processes import Run, free_port

HOST = """
import os, signal, threading
import gradio as gr
from webhooks import WebhooksServer

class Page(gr.Blocks):
    def block_thread(self):
        print("waits", flush=True)
        super().block_thread()

def of_the_host(number, frame):
    print("the host got", signal.Signals(number).name, flush=True)

NUMBERS = signal.SIGINT, signal.SIGTERM
for number in NUMBERS:
    signal.signal(number, of_the_host)

def are_the_hosts():
    return [signal.getsignal(number) is of_the_host for number in NUMBERS]

with Page() as page:
    pass

server = WebhooksServer(page)

@server.add_webhook
def stop():
    threading.Thread(target=server.close).start()
"""


def test_sigterm_is_the_programs_again_after_the_wait(run: Run) -> None:
    process = run(HOST + "server.launch()\nprint(are_the_hosts(), flush=True)\nserver.launch()\nprint('end')\n")
    process.wait_for("waits")
    process.interrupt()  # the host handles SIGINT itself
    process.wait_for("the host got SIGINT")
    process.post("stop")
    process.wait_for("[True, True]")
    process.wait_for("waits")
    process.popen.terminate()
    assert process.wait_for_exit() == 0
    assert "the host got SIGTERM" not in process.output
    assert process.output.endswith("end\n")


TWO_SERVERS = """
import os, time
from webhooks import WebhooksServer

first, second = WebhooksServer(reply_within=0.2), WebhooksServer()

@first.add_webhook
def slow():
    while not os.path.exists("go on"):
        time.sleep(0.05)
    print("slow is done", flush=True)

second.add_webhook("/other")(lambda: None)
first.launch(prevent_thread_lock=True)
second.launch(server_port=int(os.environ["SECOND_PORT"]))
"""


def test_a_signal_ends_all_servers_of_a_process(run: Run) -> None:
    process = run(TWO_SERVERS, SECOND_PORT=str(free_port())).wait_until_ready()
    process.wait_for(process.READY)
    assert process.post("slow", {}).status_code == 202
    process.popen.terminate()
    process.wait_for("Stopping")
    (process.folder / "go on").touch()
    assert process.wait_for_exit() == 0
    assert "slow is done" in process.output
    assert rows(process.folder / ".webhooks", "SELECT status FROM deliveries") == [("succeeded",)]
