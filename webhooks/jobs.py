"""Starts Jobs on the Hub (https://huggingface.co/docs/hub/jobs) for a delivery, each one once."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from weakref import WeakValueDictionary

from huggingface_hub import HfApi, JobInfo
from huggingface_hub.errors import HfHubHTTPError, JobNotFoundError
from pydantic import BaseModel

from .delivery import FINAL, Delivery, GiveUp, StartedJob
from .settings import Settings, read_settings

logger = logging.getLogger("webhooks")

MAX_LABEL = 100  # characters; letters, digits, - and _ (huggingface_hub 2.4.0, update_job_labels)
ANSWER_WITHIN = 30  # seconds for a page of the list of Jobs, where the client would wait for ever
PATIENCE = 60.0  # seconds to wait for an answer of the Hub to somebody else
ASK_AGAIN = 10.0  # seconds until the Hub is asked again for the stage of the same Job

warnings.filterwarnings("ignore", "'HfApi.run_uv_job' is experimental")


class JobRefused(GiveUp):
    """The Hub does not start this Job, and would not start it later either; the text says why."""


class Job(BaseModel):
    """A Job as the Hub was asked for it, or as it would be.

    `timeout` is a number with its unit: `90s`, `30m`, `2h` or `1d`. `secrets` are names, never values. `id`, `url` and
    `stage` are the Hub's, and `None` in a dry run, whose `reason` says why it is one.
    """

    dry_run: bool
    reason: str | None = None
    id: str | None = None
    url: str | None = None
    stage: str | None = None
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
    name: str | None = None,
) -> Job:
    """Start the Job that this delivery calls for, unless it has been started before; return it.

    A Job bears the delivery's id. If the handler runs again, after a failure or a crash, the Job is found and
    returned, even if its start was never answered. It calls the Hub and waits for it, so call it from a `def` handler.

    Without `HF_TOKEN`, or with `DRY_RUN=true`, nothing is started and `dry_run` is true.

    Args:
        delivery: what the Job is for; its id, endpoint and repository become the Job's labels.
        command: a program that the dependencies install, such as `trl`.
        args: its arguments. One that is the path of a file here is uploaded (huggingface_hub's `run_uv_job`).
        dependencies: what `uv` installs before, as in a requirements file.
        flavor: the hardware (https://huggingface.co/docs/hub/jobs-pricing).
        timeout: when the Hub ends the Job: `90s`, `30m`, `2h`, `1d`.
        namespace: the user or organization that pays; by default the owner of `HF_TOKEN`.
        cancel_running: first cancel the unfinished Jobs that earlier deliveries to the same endpoint have started for
            the same repository.
        name: tells the Jobs of one delivery apart; by default the command.

    Raises:
        JobRefused: the Hub does not start it: no credit, no such flavor, no permission. The delivery fails at once.
        HfHubHTTPError, httpx2.HTTPError: the Hub cannot be reached or is in trouble. The delivery's next attempt, if
            it has one (`max_attempts`), tries again.

    Example:
        ```python
        @server.add_webhook(max_attempts=5)
        def count_rows(payload: WebhookPayload, delivery: Delivery):
            return launch_job(delivery, "python", ["count.py", payload.repo.name], dependencies=["datasets"])
        ```
    """
    settings = read_settings(Settings)
    job = Job(
        dry_run=True,
        reason=_why_dry(settings),
        command=command,
        args=list(args),
        dependencies=list(dependencies),
        flavor=flavor,
        timeout=timeout,
        labels=_labels(delivery, name or command),
        secrets=["HF_TOKEN"],
        namespace=namespace,
        cancel_running=cancel_running,
    )
    if settings.hf_token is None or settings.dry_run:
        return job
    token = settings.hf_token.get_secret_value()
    if token in job.model_dump_json():
        raise JobRefused("The Hub token is among the arguments of the Job. It gets there by itself, as a secret.")
    # One attempt of a delivery at a time looks for a Job and starts it: one that timed out may still be at it.
    with _refusals(), _alone(delivery.id):
        return _start(job, delivery, token)


def _start(job: Job, delivery: Delivery, token: str) -> Job:
    api = HfApi(token=token)
    namespace = job.namespace or _account(token)
    mine = {name: job.labels[name] for name in ("webhook-delivery", "webhook-job")}
    info = next(_jobs(api, namespace, mine), None)
    if info is None and job.cancel_running:
        with _alone(str(_subject(job.labels)), PATIENCE):  # or two commits in a row would not see each other's Jobs
            _cancel_earlier(api, namespace, job.labels)
            info = _run(api, namespace, job, token)
    elif info is None:
        info = _run(api, namespace, job, token)
    started = StartedJob(info.id, namespace, info.url, str(info.flavor or job.flavor), _stage(info))
    delivery.jobs.append(started)
    update = {"dry_run": False, "reason": None, "id": started.id, "url": started.url, "stage": started.stage}
    return job.model_copy(update={**update, "namespace": namespace})


def _run(api: HfApi, namespace: str, job: Job, token: str) -> JobInfo:
    info: JobInfo = api.run_uv_job(
        job.command,
        script_args=job.args,
        dependencies=job.dependencies or None,
        flavor=job.flavor,
        timeout=job.timeout,
        labels=job.labels,
        secrets={"HF_TOKEN": token},
        namespace=namespace,
    )
    return info


def _cancel_earlier(api: HfApi, namespace: str, labels: dict[str, str]) -> None:
    subject = _subject(labels)
    for info in _jobs(api, namespace, subject):
        theirs = info.labels or {}
        received = theirs.get("webhook-received", "")  # anybody in the organization may have written it
        is_earlier = received.isdecimal() and int(received) < int(labels["webhook-received"])
        mine = theirs.get("webhook-delivery") == labels["webhook-delivery"]
        if _subject(theirs) == subject and is_earlier and not mine and _stage(info) not in FINAL:
            _cancel(api, namespace, info.id)


def _cancel(api: HfApi, namespace: str, id: str) -> None:
    try:
        api.cancel_job(job_id=id, namespace=namespace)
    except HfHubHTTPError as error:
        if _may_pass(error):
            raise
        # Most likely it has ended since it was listed; whatever it is, it is no reason to keep the new one back.
        logger.warning("The Hub does not cancel the earlier Job %s: it says %d.", id, error.response.status_code)


def _account(token: str) -> str:
    """Ask once whose token it is: the Hub answers this question a few times a minute only."""
    with _asking_lock:
        return _ask_account(token)


@functools.lru_cache(maxsize=1)
def _ask_account(token: str) -> str:
    return str(HfApi(token=token).whoami()["name"])


_asking_lock = threading.Lock()


def _jobs(api: HfApi, namespace: str, labels: dict[str, str]) -> Iterator[JobInfo]:
    """List the Jobs with all of these labels, whether or not the Hub sorts out the others."""
    for info in api.list_jobs(labels=labels, namespace=namespace, timeout=ANSWER_WITHIN):
        if labels.items() <= (info.labels or {}).items():
            yield info


def _stage(info: JobInfo) -> str:
    return str(getattr(info.status.stage, "value", info.status.stage)) if info.status else "UNKNOWN"


def _labels(delivery: Delivery, name: str) -> dict[str, str]:
    labels = {
        "webhook-delivery": delivery.id,
        "webhook-endpoint": label(delivery.endpoint.removeprefix("/webhooks/")),
        "webhook-job": label(name),
        "webhook-received": str(int(delivery.received_at.timestamp() * 1_000_000)),
    }
    if delivery.payload:
        labels["webhook-repo"] = label(f"{delivery.payload.repo.type}/{delivery.payload.repo.name}")
    return labels


def _subject(labels: dict[str, str]) -> dict[str, str]:
    return {name: labels[name] for name in ("webhook-endpoint", "webhook-repo") if name in labels}


_PLAIN = re.compile(rf"[A-Za-z0-9_-]{{0,{MAX_LABEL}}}(?<!-[0-9a-f]{{8}})")  # what ends in a hash is not


def label(text: str) -> str:
    """Write a name so that a Job's label may hold it: still readable, and never the same for two names."""
    if _PLAIN.fullmatch(text):
        return text
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", text)
    return f"{plain[: MAX_LABEL - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _why_dry(settings: Settings) -> str:
    return "DRY_RUN is set." if settings.dry_run else "HF_TOKEN is not set."


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Tell what trying again cannot mend from what it can."""
    try:
        yield
    except HfHubHTTPError as error:
        if _may_pass(error):
            raise
        reason = f"{error.response.status_code} {error.server_message or error}"
        raise JobRefused(f"The Hub refuses this Job: {reason}") from error
    except FileNotFoundError as error:
        raise JobRefused(f"An argument looks like a file to upload, and there is none: {error}") from error


def _may_pass(error: HfHubHTTPError) -> bool:
    status = error.response.status_code
    return status in (408, 429) or status >= 500


_locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
_finding_lock = threading.Lock()


@contextlib.contextmanager
def _alone(with_what: str, patience: float = -1) -> Iterator[None]:
    """Let one thread at a time do this; wait for it up to `patience` seconds, and then do it all the same."""
    with _finding_lock:
        lock = _locks.setdefault(with_what, threading.Lock())
    acquired = lock.acquire(timeout=patience)
    try:
        yield
    finally:
        if acquired:
            lock.release()


class JobWatch:
    """Asks the Hub for the stages of Jobs that somebody looks at, without making anybody wait.

    Args:
        token: may read the Jobs.
        learned: is told the id of a Job and its stage, from another thread.
    """

    def __init__(self, token: str, learned: Callable[[str, str], object]) -> None:
        self._token = token
        self._learned = learned
        self._not_before: dict[str, float] = {}  # by id
        self._lock = threading.Lock()

    def look(self, jobs: Iterable[StartedJob]) -> None:
        for job in jobs:
            if job.stage not in FINAL and self._may_ask(job.id):
                threading.Thread(target=self._ask, args=(job,), daemon=True).start()

    def _may_ask(self, id: str) -> bool:
        now = time.monotonic()
        with self._lock:
            self._not_before = {id: then for id, then in self._not_before.items() if then > now}
            if id in self._not_before:
                return False
            self._not_before[id] = now + PATIENCE
            return True

    def _ask(self, job: StartedJob) -> None:
        try:
            stage = _stage(HfApi(token=self._token).inspect_job(job_id=job.id, namespace=job.namespace))
        except JobNotFoundError:
            stage = "DELETED"
        except Exception:
            return
        finally:
            with self._lock:
                self._not_before[job.id] = time.monotonic() + ASK_AGAIN
        if stage != job.stage:
            self._learned(job.id, stage)
