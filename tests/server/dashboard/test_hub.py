"""The stand-in Hub, seen by those it is for: the real client. The sign-in is in `test_sign_in.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from huggingface_hub import DiscussionComment, HfApi, ModelCardData
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    JobNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from support.hub import CLIENT, Hub, basic, object_id
from support.processes import Run

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore:'HfApi.run_uv_job' is experimental:UserWarning"),
]

MODEL = {"type": "model", "name": "julien/model"}
SCOPES = "openid profile webhooks"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_user("julien")
        hub.add_user("omar", orgs={"acme": "write", "readers": "read"})
        hub.add_token("hf_julien", "julien")
        hub.add_token("hf_omar", "omar")
        yield hub
        assert hub.unknown == []


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.url, token="hf_julien")


def client(hub: Hub, token: str) -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


def run_job(api: HfApi, **options: Any) -> Any:
    return api.run_job(image="python:3.12", command=["true"], **{"namespace": "julien", **options})


# --- what the client can do


def test_a_token_says_who_its_user_is(hub: Hub, api: HfApi) -> None:
    assert api.whoami()["name"] == "julien"
    omar = client(hub, "hf_omar").whoami()
    assert [(org["name"], org["roleInOrg"]) for org in omar["orgs"]] == [("acme", "write"), ("readers", "read")]


def test_a_webhook_is_created_changed_switched_off_and_deleted(api: HfApi) -> None:
    created = api.create_webhook(url="https://a.hf.space/webhooks/a", watched=[MODEL], domains=["repo"], secret="s")
    assert (created.url, created.secret, created.domains, created.disabled) == (
        "https://a.hf.space/webhooks/a",
        "s",
        ["repo"],
        False,
    )
    assert [(item.type, item.name) for item in created.watched] == [("model", "julien/model")]
    assert api.list_webhooks() == [created]
    assert api.disable_webhook(created.id).disabled is True
    assert api.get_webhook(created.id).disabled is True
    assert api.enable_webhook(created.id).disabled is False
    assert api.update_webhook(created.id, url="https://b.hf.space", watched=[MODEL]).url == "https://b.hf.space"
    api.delete_webhook(created.id)
    assert api.list_webhooks() == []


def test_changing_a_webhook_without_saying_what_it_watches_makes_it_watch_nothing(api: HfApi) -> None:
    created = api.create_webhook(url="https://a.hf.space", watched=[MODEL])
    assert api.update_webhook(created.id, url="https://b.hf.space").watched == []


def test_a_webhook_belongs_to_its_user(hub: Hub, api: HfApi) -> None:
    created = api.create_webhook(url="https://a.hf.space", watched=[MODEL])
    other = client(hub, "hf_omar")
    assert other.list_webhooks() == []
    with pytest.raises(HfHubHTTPError, match="404"):
        other.delete_webhook(created.id)


def test_a_webhook_can_start_a_job(api: HfApi) -> None:
    job = run_job(api, secrets={"HF_TOKEN": "t"})
    created = api.create_webhook(job_id=job.id, watched=[MODEL], secrets={"OTHER": "u"})
    assert created.url is None
    assert created.job is not None
    assert (created.job.docker_image, created.job.command) == ("python:3.12", ["true"])
    assert created.job.secrets == {"OTHER": ""}


def test_a_job_is_kept_as_it_was_sent(hub: Hub, api: HfApi) -> None:
    info = run_job(
        api,
        env={"A": "1"},
        secrets={"HF_TOKEN": "hf_secret"},
        flavor="a10g-small",
        timeout="2h",
        labels={"delivery": "17", "name": "train"},
    )
    (job,) = hub.jobs
    assert (job.id, job.namespace, job.image) == (info.id, "julien", "python:3.12")
    assert (job.command, job.arguments, job.environment) == (["true"], [], {"A": "1"})
    assert (job.secrets, job.flavor, job.timeout) == ({"HF_TOKEN": "hf_secret"}, "a10g-small", 7200)
    assert job.labels == {"delivery": "17", "name": "train"}
    assert (info.status.stage, info.owner.name, info.owner.type) == ("SCHEDULING", "julien", "user")
    assert (info.owner.id, info.url) == (object_id("julien"), f"{hub.url}/jobs/julien/{job.id}")
    assert abs((info.created_at - job.created_at).total_seconds()) < 1
    assert "hf_secret" not in str(info)


def test_a_command_under_uv_uploads_nothing_and_is_one_request(hub: Hub, api: HfApi) -> None:
    api.run_uv_job(
        "trl",
        script_args=["sft", "--dataset_name", "julien/data"],
        dependencies=["trl"],
        flavor="t4-small",
        timeout="1h",
        labels={"delivery": "17"},
        secrets={"HF_TOKEN": "t"},
        namespace="julien",
    )
    (request,) = hub.requests
    sent = request.json()
    assert (request.method, request.path) == ("POST", "/api/jobs/julien")
    assert sent["labels"].pop("name").startswith("trl-")
    assert sent == {
        "command": ["uv", "run", "--with", "trl", "trl", "sft", "--dataset_name", "julien/data"],
        "arguments": [],
        "environment": {},
        "flavor": "t4-small",
        "secrets": {"HF_TOKEN": "t"},
        "timeoutSeconds": 3600,
        "labels": {"delivery": "17"},
        "dockerImage": "ghcr.io/astral-sh/uv:python3.12-bookworm",
    }


def test_jobs_are_listed_by_all_their_labels_newest_first_over_pages(hub: Hub, api: HfApi) -> None:
    for number in range(5):
        run_job(api, labels={"endpoint": "train", "parity": str(number % 2), "name": str(number)})
    hub.page_size = 2

    def names(**filters: Any) -> list[str]:
        return [str((job.labels or {})["name"]) for job in api.list_jobs(namespace="julien", **filters)]

    assert names() == ["4", "3", "2", "1", "0"]
    assert names(labels={"endpoint": "train", "parity": "0"}) == ["4", "2", "0"]
    assert names(labels={"endpoint": "other"}) == []
    hub.jobs[1].stage = "RUNNING"
    hub.jobs[2].stage = "ERROR"
    assert names(status=["RUNNING", "ERROR"]) == ["2", "1"]
    assert names(status="RUNNING", labels={"parity": "0"}) == []


def test_a_job_is_inspected_read_and_cancelled(hub: Hub, api: HfApi) -> None:
    job_id = run_job(api).id
    hub.jobs[0].stage, hub.jobs[0].logs = "RUNNING", ["one", "two"]
    assert api.inspect_job(job_id=job_id).status.stage == "RUNNING"
    assert list(api.fetch_job_logs(job_id=job_id)) == ["one", "two"]
    api.cancel_job(job_id=job_id, namespace="julien")
    assert hub.jobs[0].stage == "CANCELED"
    hub.jobs[0].stage = "COMPLETED"
    api.cancel_job(job_id=job_id, namespace="julien")
    assert hub.jobs[0].stage == "COMPLETED"


def test_jobs_run_under_an_organization_for_those_who_may_write(hub: Hub) -> None:
    omar = client(hub, "hf_omar")
    assert run_job(omar, namespace="acme").owner.type == "org"
    for namespace in ("readers", "julien"):
        with pytest.raises(HfHubHTTPError, match="403 Forbidden: You may not run Jobs under"):
            run_job(omar, namespace=namespace)
    assert [job.namespace for job in hub.jobs] == ["acme"]


def test_a_model_is_described_and_its_card_read(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    repo = hub.add_repo("model", "julien/model", {"README.md": "---\nlicense: mit\n---\nA model\n"})
    info = api.model_info("julien/model")
    assert (info.id, info.sha, info.card_data) == ("julien/model", repo.sha, ModelCardData(license="mit"))
    path = api.hf_hub_download("julien/model", "README.md", cache_dir=tmp_path)
    assert Path(path).read_text(encoding="utf-8") == repo.files["README.md"]
    assert repo.sha in path
    repo.files = {"README.md": "A model\n"}
    assert api.model_info("julien/model").card_data is None
    assert Path(api.hf_hub_download("julien/model", "README.md", cache_dir=tmp_path)).read_text() == "A model\n"


def test_a_commit_becomes_a_pull_request(hub: Hub, api: HfApi) -> None:
    repo = hub.add_repo("model", "julien/model", {"config.json": "{}", "README.md": "old"})
    repo.open("omar", "Thanks")
    upload = {"path_or_fileobj": b"new", "path_in_repo": "README.md", "repo_id": "julien/model"}
    commit = api.upload_file(**upload, create_pr=True, commit_message="A better card")
    assert (commit.pr_num, commit.pr_url) == (2, f"{hub.url}/julien/model/discussions/2")
    (pull,) = repo.pull_requests
    assert (pull.title, pull.author) == ("A better card", "julien")
    assert pull.files == {"config.json": "{}", "README.md": "new"}
    assert repo.files["README.md"] == "old"
    assert api.get_discussion_details("julien/model", 2).target_branch == "refs/heads/main"
    with pytest.raises(HfHubHTTPError, match="pass `create_pr=1`"):
        api.upload_file(**upload)


def test_discussions_are_listed_newest_first_over_pages_and_filtered(hub: Hub, api: HfApi) -> None:
    repo = hub.add_repo("dataset", "julien/data")
    for number in range(5):
        repo.open(("julien", "omar")[number % 2], str(number), {} if number in (1, 2) else None)
    repo.discussions[0].status, repo.discussions[1].status, repo.discussions[2].status = "closed", "merged", "draft"
    hub.page_size = 2

    def titles(**filters: Any) -> list[str]:
        return [found.title for found in api.get_repo_discussions("julien/data", repo_type="dataset", **filters)]

    assert titles() == ["4", "3", "2", "1", "0"]
    assert titles(author="omar") == ["3", "1"]
    assert titles(discussion_type="pull_request") == ["2", "1"]
    assert titles(discussion_type="discussion", author="julien") == ["4", "0"]
    assert titles(discussion_status="open") == ["4", "3", "2"]
    assert titles(discussion_status="closed") == ["1", "0"]


def test_a_discussion_shows_who_wrote_what(hub: Hub, api: HfApi) -> None:
    discussion = hub.add_repo("space", "julien/space").open("omar", "A question")
    discussion.comment("omar", "Why?")
    written = api.comment_discussion("julien/space", 1, "Because.", repo_type="space")
    assert isinstance(written, DiscussionComment)
    assert (written.author, written.content) == ("julien", "Because.")
    discussion.close("omar")
    details = api.get_discussion_details("julien/space", 1, repo_type="space")
    assert (details.title, details.author, details.status, details.is_pull_request) == (
        "A question",
        "omar",
        "closed",
        False,
    )
    assert [(event.author, getattr(event, "content", None)) for event in details.events] == [
        ("omar", "Why?"),
        ("julien", "Because."),
        ("omar", None),
    ]


def test_the_client_finds_the_hub_by_its_environment(hub: Hub, run: Run) -> None:
    script = """
        from huggingface_hub import list_jobs, run_job

        run_job(image="python:3.12", command=["true"], labels={"name": "here"})
        print([job.labels for job in list_jobs()])
    """
    process = run(script, HF_ENDPOINT=hub.url, HF_TOKEN="hf_julien")
    assert process.wait_for_exit() == 0
    assert "[{'name': 'here'}]" in process.output


# --- what goes wrong


@pytest.mark.parametrize("token", ["hf_unknown", False])
def test_who_does_not_say_who_he_is_gets_401(hub: Hub, token: Any) -> None:
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header") as caught:
        HfApi(endpoint=hub.url, token=token).list_webhooks()
    assert caught.value.response.status_code == 401
    assert (caught.value.request_id or "").startswith("Root=1-")


def test_a_token_reaches_what_its_scopes_name(hub: Hub) -> None:
    hub.add_token("hf_hooks", "julien", scopes={"webhooks"})
    hub.add_token("hf_jobs", "julien", scopes={"jobs"})
    assert client(hub, "hf_hooks").list_webhooks() == []
    run_job(client(hub, "hf_jobs"))
    for refused in (lambda: client(hub, "hf_jobs").list_webhooks(), lambda: run_job(client(hub, "hf_hooks"))):
        with pytest.raises(HfHubHTTPError, match="403 Forbidden: This token lacks the scope"):
            refused()
    assert len(hub.jobs) == 1


def test_writing_in_discussions_needs_the_scope(hub: Hub) -> None:
    hub.add_token("hf_jobs", "julien", scopes={"jobs"})
    repo = hub.add_repo("model", "julien/model")
    repo.open("omar", "A question")
    upload = {"path_or_fileobj": b"new", "path_in_repo": "README.md", "repo_id": "julien/model", "create_pr": True}
    jobs = client(hub, "hf_jobs")
    for refused in (lambda: jobs.comment_discussion("julien/model", 1, "Why?"), lambda: jobs.upload_file(**upload)):
        with pytest.raises(HfHubHTTPError, match="403 Forbidden: This token lacks the scope"):
            refused()
    assert (repo.discussions[0].events, repo.pull_requests) == ([], [])


def test_an_unknown_repository_file_or_discussion_is_not_found(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    hub.add_repo("dataset", "julien/model")
    for ask in (api.model_info, api.get_repo_discussions, lambda name: api.get_discussion_details(name, 1)):
        with pytest.raises(RepositoryNotFoundError):
            list(ask("julien/model"))
    hub.add_repo("model", "julien/model")
    with pytest.raises(HfHubHTTPError, match="Discussion not found"):
        api.get_discussion_details("julien/model", 1)
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download("julien/model", "README.md", cache_dir=tmp_path)


def test_an_unknown_job_is_not_found(api: HfApi) -> None:
    for ask in (api.inspect_job, api.cancel_job):
        with pytest.raises(JobNotFoundError):
            ask(job_id="0" * 24, namespace="julien")


@pytest.mark.parametrize("label", ["julien/data", "a.b", "a b", "é", "x" * 101])
def test_a_label_with_anything_but_letters_digits_dashes_and_underscores_is_refused(api: HfApi, label: str) -> None:
    for labels in ({"repo": label}, {label: "repo"}):
        with pytest.raises(BadRequestError, match="Labels may hold"):
            run_job(api, labels=labels)


@pytest.mark.parametrize("status", [402, 409, 429, 500, 503])
def test_a_scripted_failure_takes_no_effect_and_is_not_tried_again(hub: Hub, api: HfApi, status: int) -> None:
    hub.fail("POST", "/api/jobs/*", status, "not today", headers={"X-Error-Code": "Scripted"})
    with pytest.raises(HfHubHTTPError, match="not today") as caught:
        run_job(api)
    assert caught.value.response.status_code == status
    assert caught.value.response.headers["X-Error-Code"] == "Scripted"
    assert (len(hub.requests), hub.jobs) == (1, [])
    run_job(api)
    assert len(hub.jobs) == 1


def test_a_failure_is_for_its_method_its_path_and_so_many_times(hub: Hub, api: HfApi) -> None:
    hub.fail("GET", "/api/settings/*", 404, times=2)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError):
            api.list_webhooks()
    api.whoami()
    api.create_webhook(url="https://a.hf.space", watched=[MODEL])
    assert len(api.list_webhooks()) == 1


@pytest.mark.parametrize(
    "spoil", [lambda hub: hub.cut, lambda hub: lambda *at, times: hub.fail(*at, 503, times=times)]
)
def test_a_list_of_jobs_is_asked_for_again_by_the_client_itself(
    hub: Hub, api: HfApi, spoil: Callable[[Hub], Callable[..., None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    spoil(hub)("GET", "/api/jobs/julien", times=5)
    assert list(api.list_jobs(namespace="julien")) == []
    assert slept == [1, 2, 4, 8, 8]
    spoil(hub)("GET", "/api/jobs/julien", times=6)
    with pytest.raises((HfHubHTTPError, httpx2.RemoteProtocolError)):
        list(api.list_jobs(namespace="julien"))
    assert len(hub.requests) == 12


def test_the_telemetry_of_the_client_is_not_counted(hub: Hub) -> None:
    assert httpx.get(f"{hub.url}/api/agent-harnesses").status_code == 404
    assert hub.requests == []


def test_a_connection_cut_before_its_request_takes_effect_leaves_nothing(hub: Hub, api: HfApi) -> None:
    hub.cut("POST", "/api/jobs/julien")
    with pytest.raises(httpx2.RemoteProtocolError):
        run_job(api)
    assert (len(hub.requests), hub.jobs) == (1, [])


def test_a_lost_answer_leaves_the_job(hub: Hub, api: HfApi) -> None:
    hub.lose_answer("POST", "/api/jobs/julien")
    with pytest.raises(httpx2.RemoteProtocolError):
        run_job(api, labels={"delivery": "17"})
    assert [job.id for job in api.list_jobs(namespace="julien", labels={"delivery": "17"})] == [hub.jobs[0].id]


def test_an_answer_can_be_held_while_others_go_on(hub: Hub, api: HfApi) -> None:
    held = hub.hold("POST", "/api/jobs/julien")
    started = threading.Thread(target=run_job, args=(api,))
    started.start()
    assert held.arrived.wait(10)
    assert len(hub.jobs) == 1
    api.whoami()
    assert started.is_alive()
    held.released.set()
    started.join(10)
    assert not started.is_alive()


def test_what_it_does_not_know_is_remembered(hub: Hub) -> None:
    assert httpx.get(f"{hub.url}/api/models/gpt2").status_code == 404
    assert httpx.put(f"{hub.url}/api/whoami-v2").status_code == 404
    assert hub.unknown == ["GET /api/models/gpt2", "PUT /api/whoami-v2"]
    hub.unknown.clear()


# --- sign in


def authorize(hub: Hub) -> dict[str, str]:
    asked = {"response_type": "code", "client_id": CLIENT[0], "scope": SCOPES, "state": "s", "nonce": "n"}
    answer = httpx.get(
        f"{hub.url}/oauth/authorize", params={**asked, "redirect_uri": "https://me-hooks.hf.space/?a=b"}
    )
    location = httpx.URL(answer.headers["location"])
    assert (location.host, location.params["a"], location.params["state"]) == ("me-hooks.hf.space", "b", "s")
    return dict(location.params)


def redeem(hub: Hub, code: str, secret: str = CLIENT[1]) -> httpx.Response:
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": "https://me-hooks.hf.space/?a=b"}
    headers = {"Authorization": basic(CLIENT[0], secret)}
    return httpx.post(f"{hub.url}/oauth/token", data=form, headers=headers)


def test_a_code_is_good_for_one_token_of_the_scopes_asked_for(hub: Hub) -> None:
    hub.signed_in, hub.withheld = "omar", {"readers"}
    code = authorize(hub)["code"]
    assert redeem(hub, code, secret="guess").json() == {"error": "invalid_client"}
    issued = redeem(hub, code).json()
    assert redeem(hub, code).json() == {"error": "invalid_grant"}
    assert (issued["token_type"], issued["expires_in"], issued["scope"]) == ("bearer", 28800, SCOPES)
    bearer = {"Authorization": f"Bearer {issued['access_token']}"}
    claims = httpx.get(f"{hub.url}/oauth/userinfo", headers=bearer).json()
    assert claims["preferred_username"] == "omar"
    assert [(org["preferred_username"], org.get("roleInOrg")) for org in claims["orgs"]] == [
        ("acme", "write"),
        ("readers", None),
    ]
    signed_in = client(hub, issued["access_token"])
    assert signed_in.list_webhooks() == []
    with pytest.raises(HfHubHTTPError, match="403 Forbidden: This token lacks the scope that this needs: jobs"):
        run_job(signed_in, namespace="omar")


def test_an_access_token_expires(hub: Hub) -> None:
    hub.signed_in, hub.token_lifetime = "julien", 0
    token = redeem(hub, authorize(hub)["code"]).json()["access_token"]
    with pytest.raises(HfHubHTTPError, match="401"):
        client(hub, token).list_webhooks()


def test_nobody_signed_in_is_a_sign_in_declined(hub: Hub) -> None:
    assert authorize(hub)["error"] == "access_denied"
