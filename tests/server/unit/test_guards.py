"""A user's guard refuses strangers on the first attempt, a retry and a replay. No credential reaches the log."""

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


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have `serving` put its log into this folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def written(log: Path) -> bytes:
    return b"".join(file.read_bytes() for file in log.rglob("*") if file.is_file())


def test_no_credential_is_written_or_logged(log: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = WebhooksServer(webhook_secret=SECRET)

    @server.add_webhook
    def returns(request: Request) -> Any:
        return dict(request.headers)

    @server.add_webhook
    async def raises(request: Request, x_token: str = Header()) -> Any:
        raise ValueError(f"{x_token} {dict(request.headers)}")

    @server.add_webhook
    def misfits(x_token: int = Header(), session: int = Cookie(), x_api_key: int = Header()) -> Any: ...

    @server.add_webhook
    def refuses(x_token: str = Header()) -> None:
        raise HTTPException(401, {"sent": x_token})

    sent = {"X-Token": "s3cret-1", "Authorization": "Bearer s3cret-2", "Cookie": "session=s3cret-3; a=s3cret-4"}
    with serving(server) as client:
        for name in ("returns", "raises", "misfits", "refuses"):
            delivery = client.deliver(name, headers={**SIGNED, "X-Api-Key": "s3cret-5", **sent})
            assert delivery.outcome.status in ("succeeded", "failed")
            assert (name in ("returns", "refuses")) == ("s3cret" in delivery.answer.text)  # its sender may see it
        text = written(log)
    assert b"refuses" in text
    for place in (text, caplog.text.encode()):
        assert b"s3cret" not in place
        assert SECRET.encode() not in place


KEY = "abcdef-123456"
DISGUISES: dict[str, tuple[str, dict[str, Any], str]] = {
    "APIKeyHeader": ("f", {"headers": {"X-Key": KEY}}, KEY),
    "APIKeyQuery": ("f", {"params": {"key": KEY}}, KEY),
    "own secret in a header": ("f", {"headers": {"X-Other": f"a {SECRET}"}}, SECRET),
    "own secret in the path": (SECRET, {}, SECRET),
}


@pytest.mark.parametrize("name", DISGUISES)
def test_a_declared_key_and_the_secret_are_not_kept(log: Path, name: str) -> None:
    server, seen = WebhooksServer(webhook_secret=SECRET), []

    @server.add_webhook("/hook/{name}")
    def handler(
        request: Request,
        _: Any = Depends(APIKeyHeader(name="X-Key", auto_error=False)),
        __: Any = Depends(APIKeyQuery(name="key", auto_error=False)),
    ) -> None:
        others = [(name, value) for name, value in request.headers.items() if name != "x-webhook-secret"]
        seen.append(f"{request.url} {others}")

    path, options, value = DISGUISES[name]
    with serving(server) as client:
        options = {**options, "headers": {**SIGNED, **options.get("headers", {})}}
        sent = client.deliver(f"hook/{path}", **options)
        assert sent.outcome.status == "succeeded"
        client.outcome(server.replay(sent.id or ""))
        text = written(log)
    assert value in seen[0]
    assert value.encode() not in text
    assert value not in "".join(seen[1:])
