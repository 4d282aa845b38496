"""The stand-in Hub answers the real client in each call that the server and its recipes make."""

from __future__ import annotations

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from support.hub import Hub


@pytest.fixture
def api(hub: Hub) -> HfApi:
    hub.add_user("julien", orgs={"acme": "write"})
    hub.add_token("hf_julien", "julien")
    return HfApi(endpoint=hub.url, token="hf_julien")


def test_webhooks_are_created_and_listed(api: HfApi) -> None:
    watched = [{"type": "model", "name": "julien/model"}]
    created = api.create_webhook(url="https://a.hf.space/webhooks/a", watched=watched, domains=["repo"], secret="s")
    assert (created.domains, created.secret, created.disabled) == (["repo"], "s", False)
    assert api.list_webhooks() == [created]


@pytest.mark.filterwarnings("ignore:'HfApi.run_uv_job' is experimental:UserWarning")
@pytest.mark.parametrize("namespace", ["julien", "acme"])
def test_jobs_are_started_listed_and_canceled(api: HfApi, namespace: str) -> None:
    asked = {"dependencies": ["trl"], "flavor": "t4-small", "timeout": "2h", "labels": {"a": "b"}}
    job = api.run_uv_job("trl", script_args=["sft"], secrets={"S": "s"}, namespace=namespace, **asked)
    api.run_uv_job("trl", namespace=namespace)
    assert [info.id for info in api.list_jobs(labels={"a": "b"}, namespace=namespace)] == [job.id]
    assert api.inspect_job(job_id=job.id, namespace=namespace).status.stage == "SCHEDULING"
    api.cancel_job(job_id=job.id, namespace=namespace)
    assert api.inspect_job(job_id=job.id, namespace=namespace).status.stage == "CANCELED"
    with pytest.raises(HfHubHTTPError, match="may not run Jobs"):
        api.run_uv_job("trl", namespace="nobody")


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_commits_are_told_one_by_one_and_by_author(hub: Hub, api: HfApi, kind: str) -> None:
    old, new = (hub.add_repo(kind, f"julien/{name}", head=name[0] * 40) for name in ("old", "new"))
    new.is_private = True
    list_repos = {"model": api.list_models, "dataset": api.list_datasets, "space": api.list_spaces}[kind]
    listed = list_repos(author="julien", sort="last_modified", expand=["sha"])
    assert [(info.id, info.sha) for info in listed] == [("julien/new", "n" * 40), ("julien/old", "o" * 40)]
    old.head = "c" * 40
    assert api.repo_info("julien/old", repo_type=kind, revision="main").sha == "c" * 40
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=hub.url, token=False).repo_info("julien/new", repo_type=kind)
