"""Starts Jobs on the Hub (https://huggingface.co/docs/hub/jobs) for a delivery."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from .delivery import Delivery
from .settings import Settings, read_settings


class Job(BaseModel):
    """A Job as the Hub was asked for it, or as it would be.

    `timeout` is a number with its unit: `90s`, `30m`, `2h` or `1d`. `secrets` are names, never values.
    """

    dry_run: bool
    reason: str | None = None
    command: str
    args: list[str]
    dependencies: list[str]
    flavor: str
    timeout: str
    labels: dict[str, str]
    secrets: list[str]
    namespace: str | None
    cancel_running: bool


def launch_job(
    delivery: Delivery,
    command: str,
    args: Sequence[str] = (),
    *,
    dependencies: Sequence[str] = (),
    flavor: str = "cpu-basic",
    timeout: str = "30m",
    namespace: str | None = None,
    cancel_running: bool = False,
) -> Job:
    """Describe the Job that this delivery calls for. This version starts none: it always is a dry run.

    Args:
        delivery: what the Job is for; its id, endpoint and repository become the Job's labels.
        command: a program that the dependencies install, such as `trl`.
        args: its arguments.
        dependencies: what `uv` installs before, as in a requirements file.
        flavor: the hardware (https://huggingface.co/docs/hub/jobs-pricing).
        timeout: when the Hub ends the Job: `90s`, `30m`, `2h`, `1d`.
        namespace: the user or organization that pays; by default the owner of `HF_TOKEN`.
        cancel_running: first cancel the unfinished Job of the same endpoint and repository.

    Example:
        ```python
        @server.add_webhook
        def count_rows(payload: WebhookPayload, delivery: Delivery):
            return launch_job(delivery, "python", ["count.py", payload.repo.name], dependencies=["datasets"])
        ```
    """
    settings = read_settings(Settings)
    labels = {"webhook-delivery": delivery.id, "webhook-endpoint": delivery.endpoint}
    if delivery.payload:
        labels["webhook-repo"] = f"{delivery.payload.repo.type}/{delivery.payload.repo.name}"
    return Job(
        dry_run=True,
        reason=_why_dry(settings),
        command=command,
        args=list(args),
        dependencies=list(dependencies),
        flavor=flavor,
        timeout=timeout,
        labels=labels,
        secrets=["HF_TOKEN"],
        namespace=namespace,
        cancel_running=cancel_running,
    )


def _why_dry(settings: Settings) -> str:
    if settings.dry_run:
        return "DRY_RUN is set."
    if settings.hf_token is None:
        return "HF_TOKEN is not set."
    return "This version does not start Jobs yet."
