"""What has become of the Jobs that somebody looks at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from huggingface_hub import HfApi
from huggingface_hub.errors import JobNotFoundError

from ..delivery import FINAL, StartedJob

AT_ONCE = 10  # Jobs of a page that the Hub is asked for
ASK_AGAIN = 10.0  # seconds until the Hub is asked again for the stage of the same Job
PATIENCE = 60.0  # seconds until that is done without an answer


class JobWatch:
    """Asks the Hub for the stages of Jobs that somebody looks at, without making anybody wait.

    Args:
        token: may read the Jobs; without one nobody is asked.
        learned: is told the id of a Job and its stage, from another thread.
    """

    def __init__(self, token: str | None, learned: Callable[[str, str], object]) -> None:
        self._token = token
        self._learned = learned
        self._not_before: dict[str, float] = {}  # by id

    def look(self, jobs: Iterable[StartedJob]) -> None:
        now = time.monotonic()
        self._not_before = {id: then for id, then in self._not_before.items() if then > now}
        for job in [job for job in jobs if self._token and job.stage not in FINAL][:AT_ONCE]:
            if job.id not in self._not_before:
                self._not_before[job.id] = now + PATIENCE
                threading.Thread(target=self._ask, args=(job,), daemon=True).start()

    def _ask(self, job: StartedJob) -> None:
        try:
            status = HfApi(token=self._token).inspect_job(job_id=job.id, namespace=job.namespace).status
            stage = str(getattr(status.stage, "value", status.stage)) if status else "UNKNOWN"
        except JobNotFoundError:
            stage = "DELETED"
        except Exception:  # the Hub is in trouble: the next look will tell
            return
        finally:
            self._not_before[job.id] = time.monotonic() + ASK_AGAIN
        if stage != job.stage:
            self._learned(job.id, stage)
