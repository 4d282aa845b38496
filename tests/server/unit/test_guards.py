"""What a handler's author wrote to keep somebody out keeps them out: at first, on a retry and on a replay."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Cookie, Depends, Header, HTTPException, Request, Response, Security
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPBasic, HTTPBasicCredentials, HTTPBearer, SecurityScopes
from support.asgi import on_loop
from support.dispatching import Dashboard

from webhooks import Delivery, WebhookPayload, WebhooksServer
from webhooks.redact import split_credentials
from webhooks.testing import serving

RIGHT = "the-right-one"
SECRET = "the secret of the server"


def check(token: str | None, status: int = 401) -> None:
    if token != RIGHT:
        raise HTTPException(status, "Keep out.")


def by_header(x_token: Annotated[str | None, Header()] = None) -> None:
    check(x_token)


async def by_required_header(x_token: Annotated[str, Header()]) -> None:
    check(x_token, 403)


def by_cookie(session: str | None = Cookie(None)) -> None:
    check(session)


def by_delivery_and_request(delivery: Delivery, request: Request) -> None:
    assert delivery.id
    check(request.headers.get("authorization"))


def by_yield(x_token: str = Header("")) -> Any:
    check(x_token)
    yield


def by_scopes(scopes: SecurityScopes, x_token: str | None = Header(None)) -> None:
    check(x_token if scopes.scopes == ["hooks"] else None)


class ByClass:
    def __init__(self, request: Request, x_token: str = Header("")) -> None:
        check(x_token)


class ByObject:
    async def __call__(self, x_token: str = Header("")) -> None:
        check(x_token)


def by_bearer(found: Any = Depends(HTTPBearer())) -> None:
    check(found.credentials)


def by_basic(found: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> None:
    check(found.password)


def by_key(key: str = Security(APIKeyHeader(name="X-Api-Key"))) -> None:
    check(key)


def by_key_cookie(key: str = Depends(APIKeyCookie(name="session"))) -> None:
    check(key)


ran: list[int] = []


def handlers() -> dict[str, Any]:
    """For each kind of guard a handler that fails at first, behind the guard."""

    def run(delivery: Delivery) -> int:
        ran.append(delivery.attempt)
        if delivery.attempt == 1:
            raise ValueError("fails at first")
        return delivery.attempt

    found: dict[str, Any] = {}
    guards = (by_header, by_required_header, by_cookie, by_delivery_and_request, by_yield, by_bearer, by_basic, by_key)
    for guard in (*guards, by_key_cookie, ByClass, ByObject()):

        def plain(delivery: Delivery, guard: Any = Depends(guard)) -> Any:
            return run(delivery)

        async def annotated(delivery: Delivery, payload: WebhookPayload, _: Annotated[None, Depends(guard)]) -> Any:
            return run(delivery)

        name = getattr(guard, "__name__", "by_object")
        found[name], found[f"{name}_async"] = plain, annotated

    def scoped(delivery: Delivery, _: None = Security(by_scopes, scopes=["hooks"])) -> Any:
        return run(delivery)

    def compares(request: Request, delivery: Delivery) -> Any:
        check(request.headers.get("x-token"))
        return run(delivery)

    async def parameter(delivery: Delivery, x_token: str = Header()) -> Any:
        check(x_token)
        return run(delivery)

    return {**found, "scoped": scoped, "compares": compares, "parameter": parameter}


HANDLERS = handlers()
KNOWN = (
    {"X-Token": RIGHT, "X-Api-Key": RIGHT, "Cookie": f"session={RIGHT}", "Authorization": RIGHT},
    {"Authorization": f"Bearer {RIGHT}"},
    {"Authorization": "Basic bWU6dGhlLXJpZ2h0LW9uZQ=="},  # me:the-right-one
)
ATTACKS: list[dict[str, str]] = [
    {},
    {"X-Token": "wrong", "X-Api-Key": "wrong", "Cookie": "session=wrong", "Authorization": "wrong"},
    {"X-Token": "", "X-Api-Key": "", "Cookie": "session=", "Authorization": "Bearer ***"},
    {"X-Token": "***", "X-Api-Key": "***", "Cookie": "session=***", "Authorization": "Basic bWU6d3Jvbmc="},
]


@pytest.fixture(scope="module")
def client() -> Any:
    server = WebhooksServer(webhook_secret=SECRET)
    for name, handler in HANDLERS.items():
        server.add_webhook(name, max_attempts=3)(handler)
    with serving(server) as client:
        client.server = server
        yield client


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


@pytest.mark.parametrize("name", HANDLERS)
@pytest.mark.parametrize("headers", ATTACKS)
def test_without_the_right_credential_the_handler_never_runs(client: Any, name: str, headers: dict[str, str]) -> None:
    sent = client.deliver(name, headers={"X-Webhook-Secret": SECRET, **headers})
    assert sent.outcome.status == "failed"
    assert client.outcome(client.server.replay(sent.id)).status == "failed"
    assert ran == []


@pytest.mark.parametrize("name", HANDLERS)
def test_with_it_the_handler_runs_again_in_this_process_and_not_from_the_log(client: Any, name: str) -> None:
    outcomes = []
    for headers in KNOWN:
        sent = client.deliver(name, headers={"X-Webhook-Secret": SECRET, **headers})
        outcomes.append((sent.outcome.status, sent.outcome.result, sent.id))
    id = next(id for status, result, id in outcomes if (status, result) == ("succeeded", 2))
    assert set(ran) == {1, 2}
    ran.clear()
    again = client.outcome(client.server.replay(id))
    assert (again.status, again.attempts, ran) == ("failed", 1, [])  # another attempt would be without it, too
    assert "keeps no credentials" in again.errors[0]
    assert "without authorization" in again.errors[0] or "x-token" in again.errors[0]


def test_the_servers_own_secret_is_there_again_on_a_replay() -> None:
    server = WebhooksServer(webhook_secret=SECRET)

    @server.add_webhook
    def guarded(delivery: Delivery, x_webhook_secret: str = Header()) -> Any:
        if x_webhook_secret != SECRET:
            raise HTTPException(401)
        return delivery.headers, delivery.withheld

    with serving(server) as client:
        sent = client.deliver("guarded")
        assert sent.answer.status_code == 200
        assert SECRET not in sent.answer.text
        assert client.outcome(server.replay(sent.id or "")).result == sent.outcome.result


def test_a_secret_that_was_not_checked_when_it_came_is_none_on_a_replay(tmp_path: Any) -> None:
    """Else a forged one, sent while the server was open, would be right as soon as the server has a secret."""
    desk = Dashboard(tmp_path)

    def guarded(request: Request) -> None:
        if request.headers.get("x-webhook-secret") != SECRET:
            raise HTTPException(403)
        ran.append(1)

    endpoint = desk.add(guarded)
    desk.start()
    headers, withheld = split_credentials([(b"x-webhook-secret", b"forged")], is_ours=False)
    delivery = Delivery(endpoint.path, None, headers=headers, withheld=withheld)
    on_loop(desk.engine.take, endpoint, delivery, 10)
    desk.stop()
    desk.start(secret=SECRET).engine.replay(delivery.id)
    desk.wait_for("failed", 2)
    assert ran == []
    assert "without x-webhook-secret" in desk.records()[1].attempts[0].error


def test_no_credential_of_a_sender_is_written_down_or_logged(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the log will be
    server = WebhooksServer(webhook_secret=SECRET)

    @server.add_webhook
    def returns(request: Request) -> Any:
        return dict(request.headers)

    @server.add_webhook
    async def raises(request: Request, x_token: str = Header()) -> Any:
        raise ValueError(f"{x_token} {dict(request.headers)}")

    @server.add_webhook
    def misfit(x_token: int = Header(), session: int = Cookie(), x_api_key: int = Header()) -> Any: ...

    @server.add_webhook
    def refuses(x_token: str = Header()) -> Response:
        raise HTTPException(401, {"sent": x_token})

    sent = {"X-Token": "s3cret-1", "Authorization": "Bearer s3cret-2", "Cookie": "session=s3cret-3; a=s3cret-4"}
    with serving(server) as serves:
        for name in ("returns", "raises", "misfit", "refuses"):
            delivery = serves.deliver(name, headers={"X-Webhook-Secret": SECRET, "X-Api-Key": "s3cret-5", **sent})
            assert delivery.outcome.status in ("succeeded", "failed")
            assert (name in ("returns", "refuses")) == ("s3cret" in delivery.answer.text)  # it goes back to its sender
        written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"refuses" in written
    for text in (written, caplog.text.encode()):
        assert b"s3cret" not in text
        assert SECRET.encode() not in text
