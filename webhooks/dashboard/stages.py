"""Keep the stages of Jobs up to date while somebody looks at them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from huggingface_hub import HfApi
from huggingface_hub.errors import JobNotFoundError

from ..delivery import FINAL_STAGES, StartedJob

MAX_JOBS = 10  # of a page, to ask the Hub for
REFRESH_SECONDS = 10.0  # until the Hub is asked again about the same Job
RETRY_SECONDS = 60.0  # until the Hub is asked again where it has not answered


class JobWatch:
    """Ask the Hub for the stages of Jobs, without a page that waits for it.

    Args:
        token: may read the Jobs; without a token the Hub is not asked.
        set_stage: is called with the id of a Job and its new stage, on another thread.
    """

    def __init__(self, token: str | None, set_stage: Callable[[str, str], object]) -> None:
        self._token = token
        self._set_stage = set_stage
        self._next_at: dict[str, float] = {}  # by id: the monotonic time of the next question

    def look(self, jobs: Iterable[StartedJob]) -> None:
        now = time.monotonic()
        self._next_at = {id: at for id, at in self._next_at.items() if at > now}
        for job in [job for job in jobs if self._token and job.stage not in FINAL_STAGES][:MAX_JOBS]:
            if job.id not in self._next_at:
                self._next_at[job.id] = now + RETRY_SECONDS
                threading.Thread(target=self._ask, args=(job,), daemon=True).start()

    def _ask(self, job: StartedJob) -> None:
        try:
            status = HfApi(token=self._token).inspect_job(job_id=job.id, namespace=job.namespace).status
            stage = str(getattr(status.stage, "value", status.stage)) if status else "UNKNOWN"
        except JobNotFoundError:
            stage = "DELETED"
        except Exception:  # the Hub is in trouble: the next look asks again
            return
        finally:
            self._next_at[job.id] = time.monotonic() + REFRESH_SECONDS
        if stage != job.stage:
            self._set_stage(job.id, stage)
