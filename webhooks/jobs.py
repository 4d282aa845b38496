"""Start Jobs on the Hub (https://huggingface.co/docs/hub/jobs) for a delivery, each of them once."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakValueDictionary

from huggingface_hub import JobInfo, cancel_job, list_jobs, run_uv_job, whoami
from huggingface_hub.errors import HfHubHTTPError
from pydantic import BaseModel, BeforeValidator, StringConstraints, ValidationError

from .deliveries.runner import call_within
from .delivery import FINAL_STAGES, Delivery, GiveUp, StartedJob
from .settings import Settings, load_settings

ANSWER_SECONDS = 120.0  # for one call of the Hub, with the upload of files
LOOK_AGAIN_SECONDS = (2.0, 4.0, 8.0, 16.0, 30.0)  # between looks for a Job that the Hub may show late
REFUSALS = {*range(400, 500)} - {408, 429}  # HTTP statuses
MAX_LABEL = 100  # characters; letters, digits, - and _ (huggingface_hub 2.4.0, update_job_labels)
OWN = ("webhook-delivery", "webhook-job")  # the labels that only one Job has
SUBJECT = ("webhook-server", "webhook-endpoint", "webhook-repo")  # the labels that commits to one repository share

# `label` keeps such a text. It rewrites a text that ends in a hash, which could be the rewritten form of another.
_PLAIN = re.compile(rf"[A-Za-z0-9_-]{{0,{MAX_LABEL}}}(?<!-[0-9a-f]{{8}})")
_Text = Annotated[str, BeforeValidator(lambda item: str(item) if isinstance(item, (int, float, Path)) else item)]

_locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()


class JobRefusedError(GiveUp):
    """The Job cannot be started, and another attempt would not help. The text says why."""


class StartUnknownError(RuntimeError):
    """The Hub may have started the Job, but does not show it. The text says how to look for it."""


class Job(BaseModel):
    """A Job as the Hub was asked for it, or in a dry run as it would be.

    `timeout` is a number with its unit: `90s`, `30m`, `2h` or `1d`. `secrets` are names, never values. `id`, `url` and
    `stage` come from the Hub and are `None` in a dry run. `reason` says why it is a dry run.
    """

    dry_run: bool = True
    reason: str | None = None
    id: str | None = None
    url: str | None = None
    stage: str | None = None
    command: _Text
    args: list[_Text]
    dependencies: list[str]
    flavor: str
    timeout: Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?[smhd]?$")]
    labels: dict[str, str]
    secrets: list[str] = ["HF_TOKEN"]
    namespace: str | None
    cancel_running: bool


def launch_job(
    delivery: Delivery,
    command: str | Path,
    args: Iterable[str | float | Path] = (),
    *,
    dependencies: Iterable[str] = (),
    flavor: str = "cpu-basic",
    timeout: str | float = "30m",
    namespace: str | None = None,
    cancel_running: bool = False,
    name: str | None = None,
) -> Job | dict[str, str]:
    """Start the Job of this delivery, unless an earlier attempt has started it, and return it.

    The labels of a Job name its delivery, so another attempt finds the Job. The function waits for the Hub: call it
    from a `def` handler, and give a handler with a `timeout` some minutes. Three things can go wrong:

    - Refused: no credit, no such flavor, no permission. `JobRefusedError` is raised, and the delivery fails at once.
    - Unknown: the Hub did not say whether it started the Job. The function looks for the Job for a minute, then raises
      `StartUnknownError`. The next attempt looks for another minute before it starts the Job.
    - Duplicated: the Hub shows the first Job only after these two minutes. Then both Jobs run. The second costs at
      most its `timeout` at the price of its `flavor`.

    The result is a dry run, and nothing is started, in three cases: `HF_TOKEN` is not set, `DRY_RUN=true`, or the
    server has a public address but no `WEBHOOK_SECRET`, so that anyone could post events.

    Args:
        delivery: the delivery that the Job belongs to.
        command: a program that the dependencies install, such as `trl`, or the path of a script.
        args: its arguments. The path of a file is replaced by the uploaded file (huggingface_hub's `run_uv_job`).
        dependencies: packages that `uv` installs, as in a requirements file.
        flavor: the hardware (https://huggingface.co/docs/hub/jobs-pricing).
        timeout: when the Hub ends the Job: seconds, or `90s`, `30m`, `2h`, `1d`.
        namespace: the user or organization that pays; by default the owner of `HF_TOKEN`.
        cancel_running: cancel the unfinished Jobs of earlier events about the same repository at the same endpoint of
            this server. If a later event has a Job, start nothing and return `{"skipped": reason}`. A replay counts as
            an event of the moment of the replay.
        name: required for the second and each further Job of a delivery.

    Raises:
        JobRefusedError: the Hub or this function refuses the Job.
        StartUnknownError: the Hub may have started the Job, but has not shown it for a minute.
        HfHubHTTPError: the Hub is in trouble or limits the rate; another attempt may succeed.
        TimeoutError: the Hub did not answer for two minutes; another attempt may succeed.

    Example:
        ```python
        @server.add_webhook(max_attempts=5)
        def count_rows(payload: WebhookPayload, delivery: Delivery):
            return launch_job(delivery, "python", ["count.py", payload.repo.name], dependencies=["datasets"])
        ```
    """
    settings = load_settings(Settings)
    job = _checked(
        reason=_why_dry_run(settings, delivery),
        command=command,
        args=args,
        dependencies=dependencies,
        flavor=flavor,
        timeout=timeout if isinstance(timeout, str) else f"{timeout}s",
        labels=_labels(delivery, name or str(command), settings),
        namespace=namespace,
        cancel_running=cancel_running,
    )
    token = settings.hf_token.get_secret_value() if settings.hf_token else ""
    if token and token in job.model_dump_json():
        raise JobRefusedError("HF_TOKEN is among the arguments of the Job. Remove it: the Job gets it as a secret.")
    job_name = job.labels["webhook-job"]
    if job_name in delivery.job_names or (delivery.job_names and not name):
        raise JobRefusedError(
            'This delivery has a Job. Give the next one a name of its own: launch_job(..., name="evaluation").'
        )
    launched = job if job.reason else _Launch(job, delivery, token).run()
    delivery.job_names.add(job_name)
    return launched


def _checked(**fields: Any) -> Job:
    try:
        return Job(**fields)
    except ValidationError as error:
        problems = [f"{problem['loc'][0]}={problem['input']!r}: {problem['msg']}." for problem in error.errors()]
        raise JobRefusedError("\n".join(problems)) from None


def _lock(key: str) -> threading.Lock:
    return _locks.setdefault(key, threading.Lock())


@dataclass(frozen=True)
class _Launch:
    job: Job
    delivery: Delivery
    token: str

    def run(self) -> Job | dict[str, str]:
        """Look, decide, start, look again."""
        with _lock("whoami"):  # The Hub limits this call to a few a minute, and the client keeps the answer.
            self.job.namespace = self.job.namespace or _answer(lambda: whoami(self.token, cache=True))["name"]
        if self.delivery.attempt > 1:
            # The process may have ended during an earlier start. Give the Hub time to show that Job.
            self.look(*LOOK_AGAIN_SECONDS)
        # Two commits may come within a second, and an attempt that timed out may still run.
        with _lock(str(self.labels(SUBJECT if self.job.cancel_running else OWN))):
            found = self.look() or self.start()
        if not _is_of(self.labels(OWN), found):
            return {"skipped": f"a newer commit has a Job: {found.url}"}
        job = self.job.model_copy(update={"dry_run": False, "id": found.id, "url": found.url})
        job.stage = found.status.stage
        self.delivery.jobs.append(StartedJob(found.id, str(job.namespace), found.url, job.flavor, job.stage))
        return job

    def look(self, *pauses: float, started: Sequence[JobInfo] = ()) -> JobInfo | None:
        """Return the Job of this delivery, or of a newer one if there is any, and cancel the Jobs that it replaces.

        Args:
            pauses: seconds to wait before each further look, until the Hub lists the Job of this delivery.
            started: the Job that this attempt has started, in case the Hub never lists it.
        """
        for pause in (0.0, *pauses):
            time.sleep(pause)
            listed = self.jobs()
            if any(_is_of(self.labels(OWN), info) for info in listed):
                break
        found = {info.id: info for info in (*started, *listed)}.values()
        valid, replaced = _decide(self.labels(OWN), found)
        for info in replaced:
            self.cancel(info)
        return valid

    def start(self) -> JobInfo:
        """Start the Job, look again, and return the Job of this delivery or of a newer one."""
        options = self.job.model_dump(include={"dependencies", "flavor", "timeout", "labels", "namespace"})
        options |= {"script_args": self.job.args, "secrets": {"HF_TOKEN": self.token}, "token": self.token}
        try:
            started: JobInfo = _answer(lambda: run_uv_job(self.job.command, **options))
        except JobRefusedError:
            raise
        except Exception as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code == 429:
                raise
            with contextlib.suppress(Exception):
                if found := self.look(*LOOK_AGAIN_SECONDS):
                    return found
            labels = f"--namespace {self.job.namespace} --label webhook-delivery={self.delivery.id}"
            raise StartUnknownError(
                "The Hub has not said whether it started this Job, and does not show it. The next attempt looks for "
                f"it again. Before you start it yourself, look: hf jobs ls --all {labels}"
            ) from error
        started.labels = self.job.labels
        with contextlib.suppress(Exception):  # The Job runs, so the delivery must not fail.
            return self.look(*LOOK_AGAIN_SECONDS, started=[started]) or started
        return started

    def labels(self, names: Iterable[str]) -> dict[str, str]:
        return {name: self.job.labels[name] for name in names}

    def jobs(self) -> list[JobInfo]:
        """Return the Jobs of this delivery, with `cancel_running` also this server's Jobs for the same repository.

        The Hub is not asked for the server's label: it has the name of the machine, which may change between attempts.
        """
        own, subject, namespace, token = self.labels(OWN), self.labels(SUBJECT), self.job.namespace, self.token
        asked = self.labels(SUBJECT[1:]) if self.job.cancel_running else own
        listed = _answer(lambda: list(list_jobs(labels=asked, namespace=namespace, token=token)))
        wanted = [own, subject] if self.job.cancel_running else [own]
        return [info for info in listed if _delivery_id(info) and any(_is_of(labels, info) for labels in wanted)]

    def cancel(self, info: JobInfo) -> None:
        if info.status.stage not in FINAL_STAGES:
            with contextlib.suppress(JobRefusedError):  # Most likely the Job has ended since it was listed.
                _answer(lambda: cancel_job(job_id=info.id, namespace=self.job.namespace, token=self.token))


def _decide(labels: Mapping[str, str], found: Collection[JobInfo]) -> tuple[JobInfo | None, list[JobInfo]]:
    """Return the Job of the delivery with these labels, or of a newer one if there is any, and the Jobs to cancel."""
    delivery_id = labels["webhook-delivery"]
    newest = max(found, key=_delivery_id, default=None)
    if newest and _delivery_id(newest) > delivery_id:
        return newest, [info for info in found if _delivery_id(info) < _delivery_id(newest)]
    older = [info for info in found if _delivery_id(info) < delivery_id]
    # A start without an answer may leave two Jobs of this delivery. Keep the oldest that has not ended.
    own = [info for info in found if _is_of(labels, info)]
    own.sort(key=lambda info: (info.status.stage in FINAL_STAGES, str(info.created_at)))
    return (own[0] if own else None), [*older, *own[1:]]


def _is_of(labels: Mapping[str, str], info: JobInfo) -> bool:
    return labels.items() <= (info.labels or {}).items()


def _delivery_id(info: JobInfo) -> str:
    """Return the id of a delivery, which grows with the time of its arrival."""
    return (info.labels or {}).get("webhook-delivery", "")


def _labels(delivery: Delivery, name: str, settings: Settings) -> dict[str, str]:
    log = hashlib.sha256(f"{platform.node()} {settings.data_dir.absolute()}".encode()).hexdigest()
    repo = delivery.payload.repo if delivery.payload else None
    return {
        "webhook-server": label(settings.space_id) if settings.space_id else f"log-{log[:16]}",
        "webhook-endpoint": label(delivery.endpoint.removeprefix("/webhooks/")),
        "webhook-repo": label(f"{repo.type}/{repo.name}") if repo else "none",
        "webhook-delivery": delivery.id,
        "webhook-job": label(name),
    }


def label(text: str) -> str:
    """Rewrite a text so that a Job's label may hold it: still readable, and never the same for two texts."""
    if _PLAIN.fullmatch(text):
        return text
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", text)
    return f"{plain[: MAX_LABEL - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _why_dry_run(settings: Settings, delivery: Delivery) -> str | None:
    if settings.dry_run:
        return "DRY_RUN is set."
    if settings.hf_token is None:
        return "HF_TOKEN is not set."
    if not delivery.is_open_to_strangers:
        return None
    return "Anyone could have sent this event, since no WEBHOOK_SECRET was set. Set it, then replay the delivery."


def _answer(call: Callable[[], Any]) -> Any:
    """Return the answer of the Hub. The client's only timeout is process-wide.

    Raises:
        JobRefusedError: the Hub refuses, and would refuse again.
        HfHubHTTPError: the Hub is in trouble, or limits the rate.
        TimeoutError: the Hub has not answered. The call goes on, and its effect is unknown.
    """
    try:
        return call_within(ANSWER_SECONDS, call)
    except FileNotFoundError as error:
        raise JobRefusedError(f"An argument looks like a file to upload, and there is none: {error}") from error
    except HfHubHTTPError as error:
        if error.response.status_code not in REFUSALS:
            raise
        reason = f"{error.response.status_code} {error.server_message or error}"
        raise JobRefusedError(f"The Hub refuses this Job: {reason}") from error
