"""The examples of huggingface_hub's guide, as written, with only the import line changed."""

import re

import httpx
import pytest
from support.payloads import load
from support.processes import Process, Run

UPDATE = load("repo.content-update")
SECRET = "my_secret_key"


def test_the_first_example_starts_by_itself(serve: Run) -> None:
    server = serve(
        """
        # app.py
        from webhooks import webhook_endpoint, WebhookPayload

        @webhook_endpoint
        async def trigger_training(payload: WebhookPayload) -> None:
            if payload.repo.type == "dataset" and payload.event.action == "update":
                # Trigger a training job if a dataset is updated
                ...
        """
    )
    answer = server.post("trigger_training", UPDATE)
    assert answer.status_code == 200
    assert answer.json() == {"delivery": answer.headers["X-Delivery-Id"], "status": "succeeded"}


def test_the_second_example_serves_both_endpoints_and_prints_their_full_urls(serve: Run) -> None:
    server = serve(
        """
        # app.py
        from webhooks import webhook_endpoint, WebhookPayload

        @webhook_endpoint
        async def trigger_training(payload: WebhookPayload) -> None:
            if payload.repo.type == "dataset" and payload.event.action == "update":
                # Trigger a training job if a dataset is updated
                ...

        @webhook_endpoint
        async def trigger_evaluation(payload: WebhookPayload) -> None:
            if payload.repo.type == "model" and payload.event.action == "update":
                # Trigger an evaluation job if a model is updated
                ...
        """
    )
    lines = [line.strip() for line in server.output.splitlines()]
    for name in ("trigger_training", "trigger_evaluation"):
        assert server.post(name, UPDATE).status_code == 200
        assert lines.count(f"- POST {server.url}/webhooks/{name}") == 1
    assert server.post("trigger_deployment", UPDATE).status_code == 404
    assert "Runs your code when a dataset, model or Space changes" in httpx.get(server.url).text  # the landing page


def test_the_third_example_serves_explicit_and_implicit_names_behind_its_secret(serve: Run) -> None:
    server = serve(
        """
        import gradio as gr
        from fastapi import Request
        from webhooks import WebhooksServer, WebhookPayload

        # 1. Define  UI
        with gr.Blocks() as ui:
            ...

        # 2. Create WebhooksServer with custom UI and secret
        app = WebhooksServer(ui=ui, webhook_secret="my_secret_key")

        # 3. Register webhook with explicit name
        @app.add_webhook("/say_hello")
        async def hello(payload: WebhookPayload):
            return {"message": "hello"}

        # 4. Register webhook with implicit name
        @app.add_webhook
        async def goodbye(payload: WebhookPayload):
            return {"message": "goodbye"}

        # 5. Start server (optional)
        app.run()
        """
    )
    for name, message in (("say_hello", "hello"), ("goodbye", "goodbye")):
        answer = server.post(name, UPDATE, headers={"X-Webhook-Secret": SECRET})
        assert (answer.status_code, answer.json()) == (200, {"message": message})
        assert server.post(name, UPDATE).status_code == 401
        assert server.post(name, UPDATE, headers={"X-Webhook-Secret": SECRET + "!"}).status_code == 403
    assert server.post("hello", UPDATE, headers={"X-Webhook-Secret": SECRET}).status_code == 404
    assert httpx.get(server.url).status_code == 200


def test_a_custom_ui_replaces_the_page_and_a_handler_sees_the_whole_request(serve: Run) -> None:
    server = serve(
        """
        import gradio as gr
        from fastapi import Request
        from webhooks import WebhooksServer, WebhookPayload

        with gr.Blocks() as ui:
            gr.Markdown("A page of my own")

        app = WebhooksServer(ui=ui, webhook_secret="my_secret_key")

        @app.add_webhook
        async def reads(request: Request):
            return {"json": await request.json(), "headers": dict(request.headers)}

        @app.add_webhook("/nested/looks")
        def looks(payload: WebhookPayload, request: Request):
            return {"repo": payload.repo.name, "headers": dict(request.headers), "query": dict(request.query_params)}

        @app.add_webhook
        def fails(request: Request):
            raise RuntimeError(f"Headers: {dict(request.headers)}")

        app.run()
        """
    )
    page = httpx.get(server.url).text
    assert "A page of my own" in page
    assert "Runs your code when a dataset, model or Space changes" not in page

    def post(path: str, content: object) -> httpx.Response:
        return server.post(path, content, headers={"X-Webhook-Secret": SECRET, "X-Custom": "mine"})

    answer = post("reads", {"any": ["body", 1]})
    assert answer.status_code == 200
    assert answer.json()["json"] == {"any": ["body", 1]}
    assert answer.json()["headers"]["x-custom"] == "mine"
    assert answer.json()["headers"]["x-webhook-secret"] == SECRET

    answer = post("nested/looks?colour=green", UPDATE)
    assert answer.status_code == 200
    assert answer.json()["repo"] == UPDATE["repo"]["name"]
    assert answer.json()["query"] == {"colour": "green"}
    assert answer.json()["headers"]["x-custom"] == "mine"
    assert answer.json()["headers"]["x-webhook-secret"] == SECRET

    assert post("fails", {}).status_code == 500
    server.interrupt()
    server.wait_for_exit()
    assert "Headers: {" in server.output  # the traceback was logged, so it could have shown the secret
    assert SECRET not in server.output


# --- what the console says

ONE_ENDPOINT = """
from webhooks import webhook_endpoint

@webhook_endpoint
def trigger_training(): ...
"""
SPACE = {"SPACE_ID": "me/hooks", "SPACE_HOST": "me-hooks.hf.space", "SYSTEM": "spaces"}


def said_by(process: Process) -> str:
    """Return what it said, with names for what differs from start to start."""
    said = process.output.replace(process.url, "LOCAL").replace(str(process.folder), "HERE")
    return re.sub(r"token=[\w-]+", "token=TOKEN", said)


def test_all_that_a_newcomer_reads_is_what_is_needed_and_said_once(serve: Run) -> None:
    assert (
        said_by(serve(ONE_ENDPOINT))
        == """
Webhook secret is not defined. This means your webhook endpoints will be open to everyone.
To close them, set WEBHOOK_SECRET in the environment, or in .env if the script calls load_dotenv().

Local:     LOCAL
Public:    none; only this machine reaches the addresses below
Log:       HERE/.webhooks

See, test and replay deliveries, as the owner (keep this link to yourself):
  LOCAL/deliveries?token=TOKEN

Webhooks are correctly setup and ready to use:
  - POST LOCAL/webhooks/trigger_training
Go to https://huggingface.co/settings/webhooks to setup your webhooks.
"""
    )


OPEN = "This means your webhook endpoints will be open to everyone."
CLOSED = "Until it is, every delivery is answered 503: add WEBHOOK_SECRET in the settings of this Space"


@pytest.mark.parametrize(
    ("environment", "state", "ready"),
    [
        ({"WEBHOOK_SECRET": "s3cret"}, "Webhook secret is correctly defined.", True),
        (
            {"WEBHOOK_SECRET": "s3cret", "WEBHOOK_SECRET_PREVIOUS": "s3cret-before"},
            "Webhook secret is correctly defined. The previous one is accepted, too.",
            True,
        ),
        (SPACE, f"Webhook secret is not defined. {CLOSED}, https://huggingface.co/spaces/me/hooks/settings", False),
        ({**SPACE, "WEBHOOKS_ALLOW_UNAUTHENTICATED": "true"}, f"Webhook secret is not defined. {OPEN}", True),
        ({**SPACE, "WEBHOOK_SECRET": "s3cret"}, "Webhook secret is correctly defined.", True),
    ],
    ids=["secret", "two secrets", "closed Space", "open Space", "Space"],
)
def test_the_console_says_who_may_call_and_nothing_that_is_not_so(
    environment: dict[str, str], state: str, ready: bool, serve: Run
) -> None:
    process = serve(ONE_ENDPOINT, **environment)
    lines = process.output.splitlines()
    assert [line for line in lines if "ebhook secret" in line] == [state]
    assert (OPEN in process.output) == (OPEN in state)
    assert ("Webhooks are correctly setup and ready to use:" in lines) == ready
    url = f"https://{SPACE['SPACE_HOST']}" if "SPACE_HOST" in environment else process.url
    assert lines[-2:] == [f"  - POST {url}/webhooks/trigger_training", Process.READY]
    assert "s3cret" not in process.output
