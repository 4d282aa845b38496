"""A user's guard refuses strangers on the first attempt, a retry and a replay. No credential reaches the log."""

# ruff: noqa: B008 - FastAPI's parameters are calls in defaults

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Cookie, Depends, Header, HTTPException, Request, Security
from fastapi.security import APIKeyHeader, APIKeyQuery

from webhooks import Delivery, WebhookPayload, WebhooksServer
from webhooks.testing import Client, serving

RIGHT = "the-right-one"
SECRET = "the-secret-of-the-server"
SIGNED = {"X-Webhook-Secret": SECRET}


def check(token: str | None) -> None:
    if token != RIGHT:
        raise HTTPException(401, "Keep out.")


async def by_header(x_token: Annotated[str, Header()]) -> None:
    check(x_token)


def by_cookie(session: str | None = Cookie(None)) -> None:
    check(session)


def by_yield(key: str = Security(APIKeyHeader(name="X-Token"))) -> Any:
    check(key)
    yield


ran: list[int] = []


def run(delivery: Delivery) -> int:
    ran.append(delivery.attempt)
    if delivery.attempt == 1:
        raise ValueError("fails at first")
    return delivery.attempt


def guarded(guard: Any) -> Any:
    async def handler(delivery: Delivery, payload: WebhookPayload, _: Any = guard) -> Any:
        return run(delivery)

    return handler


def compares(request: Request, delivery: Delivery) -> Any:
    check(request.headers.get("x-token"))
    return run(delivery)


GUARDS = {guard.__name__: guarded(Depends(guard)) for guard in (by_header, by_cookie, by_yield)}
GUARDS["compares"] = compares
KNOWN = {"X-Token": RIGHT, "Cookie": f"session={RIGHT}"}
ATTACKS: dict[str, dict[str, str]] = {
    "nothing": {},
    "wrong": {"X-Token": "wrong", "Cookie": "session=wrong"},
    "redacted": {"X-Token": "***", "Cookie": "session=***"},
}


@pytest.fixture(scope="module")
def server() -> WebhooksServer:
    server = WebhooksServer(webhook_secret=SECRET)
    for name, handler in GUARDS.items():
        server.add_webhook(name, max_attempts=3)(handler)
    return server


@pytest.fixture(scope="module")
def client(server: WebhooksServer) -> Iterator[Client]:
    with serving(server) as client:
        yield client


@pytest.mark.parametrize("name", GUARDS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_stranger_never_runs_a_handler(server: WebhooksServer, client: Client, name: str, attack: str) -> None:
    ran.clear()
    sent = client.deliver(name, headers={**SIGNED, **ATTACKS[attack]})
    assert sent.outcome.status == "failed"
    assert client.outcome(server.replay(sent.id or "")).status == "failed"
    assert ran == []


@pytest.mark.parametrize("name", GUARDS)
def test_a_credential_lasts_for_retries_only(server: WebhooksServer, client: Client, name: str) -> None:
    ran.clear()
    sent = client.deliver(name, headers={**SIGNED, **KNOWN})
    assert (sent.outcome.status, sent.outcome.result, ran) == ("succeeded", 2, [1, 2])
    again = client.outcome(server.replay(sent.id or ""))
    assert (again.status, again.attempts, ran) == ("failed", 1, [1, 2])  # another attempt would lack it, too
    assert "keeps no credentials" in again.errors[0]
    assert ("cookie" if name == "by_cookie" else "x-token") in again.errors[0]


def test_a_replay_carries_the_servers_own_secret() -> None:
    server = WebhooksServer(webhook_secret=SECRET)

    @server.add_webhook
    def handler(x_webhook_secret: str = Header()) -> bool:
        return x_webhook_secret == SECRET

    with serving(server) as client:
        sent = client.deliver("handler")
        assert sent.answer.json() is True
        assert client.outcome(server.replay(sent.id or "")).result is True


# --- what is written down


def test_no_credential_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """A credential reaches the handler and its sender; the log, the console and a replay do not have it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where `serving` has its log
    server, seen = WebhooksServer(webhook_secret=SECRET), []

    @server.add_webhook("/returns/{name}")
    def returns(
        request: Request,
        _: Any = Depends(APIKeyHeader(name="X-Declared", auto_error=False)),
        __: Any = Depends(APIKeyQuery(name="declared", auto_error=False)),
    ) -> Any:
        seen.append(
            f"{request.url} {[value for name, value in request.headers.items() if name != 'x-webhook-secret']}"
        )
        return dict(request.headers)

    @server.add_webhook("/raises/{name}")
    async def raises(request: Request, x_token: str = Header()) -> Any:
        raise ValueError(f"{x_token} {dict(request.headers)}")

    @server.add_webhook("/misfits/{name}")
    def misfits(x_token: int = Header(), session: int = Cookie(), x_api_key: int = Header()) -> Any: ...

    @server.add_webhook("/refuses/{name}")
    def refuses(x_token: str = Header()) -> None:
        raise HTTPException(401, {"sent": x_token})

    by_name = {"X-Token": "s3cret-1", "Authorization": "Bearer s3cret-2", "Cookie": "session=s3cret-3; a=s3cret-4"}
    headers = {**SIGNED, **by_name, "X-Api-Key": "s3cret-5", "X-Other": f"a {SECRET}"}
    with serving(server) as client:
        for name in ("returns", "raises", "misfits", "refuses"):
            declared = {"X-Declared": "s3cret-6"} if name == "returns" else {}
            query = {"declared": "s3cret-7"} if name == "returns" else {}
            sent = client.deliver(f"{name}/{SECRET}", headers={**headers, **declared}, params=query)
            assert (name in ("returns", "refuses")) == ("s3cret" in sent.answer.text)  # its sender may see it
            assert client.outcome(server.replay(sent.id or "")).status in ("succeeded", "failed")
        text = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    first, replayed = seen
    assert [part in first for part in (SECRET, "s3cret-2", "s3cret-6", "s3cret-7")] == [True] * 4
    assert b"refuses" in text
    for place in (text, caplog.text.encode(), replayed.encode()):
        assert b"s3cret" not in place
        assert SECRET.encode() not in place
