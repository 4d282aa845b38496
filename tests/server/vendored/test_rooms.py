"""What stands beside the server can be deleted, because everything is imported in one direction only."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.payloads import load
from support.processes import ROOT, Run

from webhooks.deliveries.log import find, reading

UPDATE = load("repo.content-update")
SECRET = {"X-Webhook-Secret": "s3cret"}
# With all that would make the server use what is not there: a token for Jobs, an owner who may sign in.
SETTINGS = {
    "WEBHOOK_SECRET": "s3cret",
    "HF_TOKEN": "hf_" + "token" * 7,
    "HF_ENDPOINT": "http://127.0.0.1:9",
}
SCRIPT = """
import webhooks
from webhooks import WebhookPayload, WebhooksServer

print("The server is", webhooks.__file__)
server = WebhooksServer(data_dir="log")

@server.add_webhook
def note(payload: WebhookPayload):
    return payload.repo.name

@server.add_webhook(max_attempts=2)
async def fails():
    raise ValueError

server.launch()
"""


@pytest.mark.once
@pytest.mark.parametrize("rooms", [["dashboard"], ["jobs.py"], ["dashboard", "jobs.py"]], ids=" and ".join)
def test_without_the_rooms_that_can_be_deleted_a_delivery_is_taken_kept_and_run(
    rooms: list[str], run: Run, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "webhooks", tmp_path / "webhooks", ignore=shutil.ignore_patterns("__pycache__", *rooms))
    assert not [room for room in rooms if (tmp_path / "webhooks" / room).exists()]
    server = run(SCRIPT, **SETTINGS).wait_until_ready()
    assert f"The server is {tmp_path / 'webhooks' / '__init__.py'}\n" in server.output

    answer = server.post("note", UPDATE, headers=SECRET)
    assert (answer.status_code, answer.json()) == (200, "username/my-dataset")
    assert server.post("note", UPDATE).status_code == 401
    again = server.post("fails", UPDATE, headers=SECRET)
    assert (again.status_code, again.json()["status"]) == (202, "scheduled")
    landing = httpx.get(server.url)
    assert (landing.status_code, "deliveries" in landing.text) == (200, "dashboard" not in rooms)
    assert httpx.get(f"{server.url}/deliveries").status_code == (404 if "dashboard" in rooms else 403)

    health = httpx.get(f"{server.url}/health")
    assert (health.status_code, health.json()["succeeded"]) == (200, 1)
    server.interrupt()
    assert server.wait_for_exit() == 0
    assert "Traceback (most recent call last)" not in server.output.replace("    | Traceback", "")
    with reading(tmp_path / "log" / "deliveries.db") as database:
        record = find(database, answer.headers["X-Delivery-Id"])
    assert (record.status, record.answer) == ("succeeded", b'"username/my-dataset"')
    assert record.delivery.payload is not None


# --- the direction of imports

SOURCES = sorted(path.relative_to(ROOT) for path in (ROOT / "webhooks").rglob("*.py"))
DELETABLE = ("webhooks.dashboard", "webhooks.jobs")


def imported(source: Path) -> Iterator[str]:
    """Name the modules that a file imports, wherever in it, and those that only a type checker sees."""
    for node in ast.walk(ast.parse((ROOT / source).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = source.parts[: len(source.parts) - node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            for name in node.names:
                inside = f"{module}.{name.name}"
                path = ROOT / inside.replace(".", "/")
                yield inside if path.is_dir() or path.with_suffix(".py").is_file() else module


def importers(*modules: str) -> set[str]:
    """Name the files that import one of these modules, or something inside."""
    return {
        source.as_posix()
        for source in SOURCES
        if any(f"{name}.".startswith(f"{module}.") for name in imported(source) for module in modules)
    }


def test_the_parts_of_the_server_do_not_know_the_server_nor_the_app() -> None:
    assert len(SOURCES) > 20
    assert importers("webhooks.server") == {"webhooks/__init__.py", "webhooks/autostart.py", "webhooks/testing.py"}
    assert [source for source in SOURCES if "webhooks" in imported(source)] == []  # which would import the server
    assert importers("app") == set()


def test_what_can_be_deleted_is_imported_by_the_server_alone() -> None:
    for module in DELETABLE:
        inside = module.replace(".", "/") + "/"
        assert {source for source in importers(module) if not source.startswith(inside)} <= {"webhooks/server.py"}


def test_deliveries_know_nothing_of_what_brings_them_and_what_shows_them() -> None:
    above = importers(*DELETABLE, "webhooks.receiver", "webhooks.server")
    assert "webhooks/server.py" in above
    assert [source for source in above if source.startswith("webhooks/deliveries/")] == []
