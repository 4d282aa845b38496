"""Starts Jobs on the Hub (https://huggingface.co/docs/hub/jobs) for a delivery, each one once."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import platform
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar
from weakref import WeakValueDictionary

import httpx2
from huggingface_hub import HfApi, JobInfo
from huggingface_hub.errors import HfHubHTTPError
from pydantic import BaseModel

from .delivery import FINAL, Delivery, GiveUp, StartedJob
from .settings import Settings, read_settings

logger = logging.getLogger("webhooks")

MAX_LABEL = 100  # characters; letters, digits, - and _ (huggingface_hub 2.4.0, update_job_labels)
ANSWER_WITHIN = 120  # seconds for a call of the Hub, with the upload of files; the client would wait for ever
LOOK_AGAIN = (2.0, 4.0, 8.0, 16.0, 30.0)  # seconds between looks for a Job that the Hub may show late: a minute in all
PATIENCE = 60.0  # seconds to wait for an answer of the Hub to somebody else

# What is a label as it is. None that ends in a hash: one that had to be rewritten could be the same.
_PLAIN = re.compile(rf"[A-Za-z0-9_-]{{0,{MAX_LABEL}}}(?<!-[0-9a-f]{{8}})")
_TROUBLE = (httpx2.HTTPError, TimeoutError)
_T = TypeVar("_T")

_locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()  # by what is done alone

warnings.filterwarnings("ignore", "'HfApi.run_uv_job' is experimental")


class JobRefused(GiveUp):
    """The Hub does not start this Job, and would not start it later either; the text says why."""


class StartUnknown(RuntimeError):
    """The Hub may have started this Job, and does not show it; the text says how to look for it."""


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
    returned. It calls the Hub and waits for it, so call it from a `def` handler.

    If nobody knows how a start has ended (no answer, a cut connection, a 5xx), the list of Jobs is looked at for a
    minute, and so it is by every attempt but the first before it starts the Job: the one before may have been cut
    short. A handler with a `timeout` needs some minutes. What remains: a Hub that shows a Job only minutes after its
    start was in doubt. Then there may be two, and the second costs at most its `timeout` at the price of its `flavor`.

    Without `HF_TOKEN`, or with `DRY_RUN=true`, nothing is started and `dry_run` is true.

    Args:
        delivery: what the Job is for; its id, endpoint and repository become the Job's labels.
        command: a program that the dependencies install, such as `trl`.
        args: its arguments. One that is the path of a file here is uploaded (huggingface_hub's `run_uv_job`).
        dependencies: what `uv` installs before, as in a requirements file.
        flavor: the hardware (https://huggingface.co/docs/hub/jobs-pricing).
        timeout: when the Hub ends the Job: `90s`, `30m`, `2h`, `1d`.
        namespace: the user or organization that pays; by default the owner of `HF_TOKEN`.
        cancel_running: first cancel the unfinished Jobs that earlier deliveries to the same endpoint of this Space (on
            a laptop, of this `WEBHOOKS_DATA_DIR`) have started for the same repository.
        name: tells the Jobs of one delivery apart; by default the command.

    Raises:
        JobRefused: the Hub does not start it: no credit, no such flavor, no permission. The delivery fails at once.
        StartUnknown: the Hub does not say whether it has started it, and shows none for a minute.
        HfHubHTTPError, httpx2.HTTPError, TimeoutError: the Hub cannot be reached or is in trouble. The delivery's next
            attempt, if it has one (`max_attempts`), tries again.

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
        reason="DRY_RUN is set." if settings.dry_run else "HF_TOKEN is not set.",
        command=command,
        args=list(args),
        dependencies=list(dependencies),
        flavor=flavor,
        timeout=timeout,
        labels=_labels(delivery, name or command, settings),
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
    with _alone(delivery.id):
        try:
            return _start(job, delivery, token)
        except HfHubHTTPError as error:
            if _may_pass(error):
                raise
            reason = f"{error.response.status_code} {error.server_message or error}"
            raise JobRefused(f"The Hub refuses this Job: {reason}") from error
        except FileNotFoundError as error:
            raise JobRefused(f"An argument looks like a file to upload, and there is none: {error}") from error


def _start(job: Job, delivery: Delivery, token: str) -> Job:
    api = HfApi(token=token)
    with _alone("whoami", PATIENCE):
        namespace = job.namespace or _account(token)
    find = functools.partial(_find, api, namespace, job.labels)
    # An earlier attempt may have been cut short in the middle of a start, which the Hub then ends a moment later.
    info = find(LOOK_AGAIN if delivery.attempt > 1 else ())
    if info is None and job.cancel_running:
        with _alone(str(_subject(job.labels)), PATIENCE):  # or two commits in a row would not see each other's Jobs
            _cancel_earlier(api, namespace, job.labels)
            info = _run(api, namespace, job, token, find)
    info = info or _run(api, namespace, job, token, find)
    started = StartedJob(info.id, namespace, info.url, str(info.flavor or job.flavor), _stage(info))
    delivery.jobs.append(started)
    update = {"dry_run": False, "reason": None, "id": started.id, "url": started.url, "stage": started.stage}
    return job.model_copy(update={**update, "namespace": namespace})


def _run(
    api: HfApi, namespace: str, job: Job, token: str, find: Callable[[Sequence[float]], JobInfo | None]
) -> JobInfo:
    """Start the Job; if nobody knows whether the Hub did, look whether it shows it."""
    run = functools.partial(
        api.run_uv_job,
        job.command,
        script_args=job.args,
        dependencies=job.dependencies or None,
        flavor=job.flavor,
        timeout=job.timeout,
        labels=job.labels,
        secrets={"HF_TOKEN": token},
        namespace=namespace,
    )
    try:
        started: JobInfo = _answer(run)
        return started
    except Exception as error:
        if not _may_have_started(error):
            raise
        with contextlib.suppress(*_TROUBLE):
            if info := find(LOOK_AGAIN):
                return info
        raise StartUnknown(
            "The Hub has not said whether it started this Job, and has shown none since. Before the Job is started "
            "again by another attempt, that looks once more; before you do it, look yourself: hf jobs ls --all "
            f"--namespace {namespace} --label webhook-delivery={job.labels['webhook-delivery']}"
        ) from error


def _find(api: HfApi, namespace: str, labels: dict[str, str], pauses: Sequence[float]) -> JobInfo | None:
    """Find the Job of this delivery, the oldest that lives; look again after each pause, until there is one."""
    names = ("webhook-delivery", "webhook-job", "webhook-id")
    mine = {name: labels[name] for name in names if name in labels}
    for pause in (*pauses, None):
        with contextlib.suppress(*(_TROUBLE if pause else ())):
            if found := _jobs(api, namespace, mine):
                oldest, *others = sorted(found, key=lambda info: (_stage(info) in FINAL, str(info.created_at)))
                for info in others:  # of a start that was in doubt, and that the Hub has shown too late
                    _cancel(api, namespace, info)
                return oldest
        time.sleep(pause or 0)
    return None


def _cancel_earlier(api: HfApi, namespace: str, labels: dict[str, str]) -> None:
    subject = _subject(labels)
    for info in _jobs(api, namespace, subject):
        received = (info.labels or {}).get("webhook-received", "")  # anybody in the organization may have written it
        is_earlier = received.isdecimal() and int(received) < int(labels["webhook-received"])
        if is_earlier and _subject(info.labels or {}) == subject:
            _cancel(api, namespace, info)


def _cancel(api: HfApi, namespace: str, info: JobInfo) -> None:
    try:
        if _stage(info) not in FINAL:
            _answer(functools.partial(api.cancel_job, job_id=info.id, namespace=namespace))
    except HfHubHTTPError as error:
        if _may_pass(error):
            raise
        # Most likely it has ended since it was listed; whatever it is, it is no reason to keep the new one back.
        logger.warning("The Hub does not cancel the Job %s: it says %d.", info.id, error.response.status_code)


@functools.lru_cache(maxsize=1)
def _account(token: str) -> str:
    """Ask once whose token it is: the Hub answers this question a few times a minute only."""
    return str(_answer(HfApi(token=token).whoami)["name"])


def _jobs(api: HfApi, namespace: str, labels: dict[str, str]) -> list[JobInfo]:
    """List the Jobs with all of these labels, whether or not the Hub sorts out the others."""
    jobs = _answer(lambda: list(api.list_jobs(labels=labels, namespace=namespace, timeout=ANSWER_WITHIN)))
    return [info for info in jobs if labels.items() <= (info.labels or {}).items()]


def _answer(call: Callable[[], _T]) -> _T:
    """Call the Hub, and wait for it so long: the client has no limit, but for one that all of a program would share.

    Raises:
        TimeoutError: there was no answer by then. The call goes on, and what becomes of it is not known.
    """
    thread = ThreadPoolExecutor(1, "webhooks Hub")
    future = thread.submit(call)
    thread.shutdown(wait=False)
    if not wait((future,), ANSWER_WITHIN).done:
        raise TimeoutError(f"The Hub has not answered within {ANSWER_WITHIN:g} seconds.")
    return future.result()


def _stage(info: JobInfo) -> str:
    return str(getattr(info.status.stage, "value", info.status.stage)) if info.status else "UNKNOWN"


def _labels(delivery: Delivery, name: str, settings: Settings) -> dict[str, str]:
    log = hashlib.sha256(f"{platform.node()} {settings.data_dir.absolute()}".encode()).hexdigest()
    labels = {
        "webhook-delivery": delivery.id,
        "webhook-endpoint": label(delivery.endpoint.removeprefix("/webhooks/")),
        "webhook-job": label(name),
        "webhook-received": str(int(delivery.received_at.timestamp() * 1_000_000)),
        "webhook-server": label(settings.space_id) if settings.space_id else f"log-{log[:16]}",
    }
    if delivery.payload:
        # Two Spaces may get one event in the same nanosecond, and give it the same id; never from the same webhook.
        labels["webhook-id"] = label(delivery.payload.webhook.id)
        labels["webhook-repo"] = label(f"{delivery.payload.repo.type}/{delivery.payload.repo.name}")
    return labels


def _subject(labels: dict[str, str]) -> dict[str, str]:
    return {name: labels[name] for name in ("webhook-server", "webhook-endpoint", "webhook-repo") if name in labels}


def label(text: str) -> str:
    """Write a name so that a Job's label may hold it: still readable, and never the same for two names."""
    if _PLAIN.fullmatch(text):
        return text
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", text)
    return f"{plain[: MAX_LABEL - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _may_pass(error: HfHubHTTPError) -> bool:
    status = error.response.status_code
    return status in (408, 429) or status >= 500


def _may_have_started(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return _may_pass(error) and error.response.status_code != 429
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return False
    return isinstance(error, (*_TROUBLE, json.JSONDecodeError, UnicodeDecodeError, KeyError))  # it was no Job


@contextlib.contextmanager
def _alone(with_what: str, patience: float = -1) -> Iterator[None]:
    """Let one thread at a time do this; wait for it up to `patience` seconds, and then do it all the same."""
    lock = _locks.setdefault(with_what, threading.Lock())
    acquired = lock.acquire(timeout=patience)
    try:
        yield
    finally:
        if acquired:
            lock.release()
