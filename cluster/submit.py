"""`ray job submit` that ends with the job's own exit code; it takes the same options, and what is to run after `--`.

    python cluster/submit.py --address http://127.0.0.1:8265 --working-dir . -- python jobs/train.py ...

`ray job submit` ends with 1 for whatever went wrong, and with 0 for a job that was stopped. Here: the exit code of the
job (jobs/train.py says what its codes mean), 128 + n where signal n ended it, 1 where it was stopped or never started.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import uuid
from typing import Any


def main(arguments: list[str]) -> int:
    """Submit, follow the log to the end, return the exit code."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    parser = argparse.ArgumentParser(usage="%(prog)s [options of ray job submit] -- command", add_help=False)
    parser.add_argument("--address")
    parser.add_argument("--submission-id")
    known, _ = parser.parse_known_args(options)
    if known.submission_id:
        parser.error("--submission-id: an id is made here, so that the exit code is that of this very job")
    if refused := shut_out(known.address):
        parser.exit(1, f"submit.py: {refused}\n")
    name = f"wbrag-{uuid.uuid4().hex[:12]}"
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    told = subprocess.run([*ray, "job", "submit", "--submission-id", name, *arguments], check=False).returncode
    return exit_code(told, *outcome(known.address, name, told))


def shut_out(address: str | None) -> str:
    """Why a job server lets nobody in from here, and what to do; "" where it does, and of any other trouble, which
    `ray job submit` tells. Of a token that is missing or wrong it tells a traceback.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        JobSubmissionClient(address)
    except AuthenticationError as error:
        said = error.message.splitlines()[0]
        return f"{said}; export RAY_AUTH_MODE=token, and the cluster's token as RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
    except (ConnectionError, RuntimeError, ValueError):
        pass
    return ""


def outcome(address: str | None, name: str, told: int) -> tuple[str, int | None]:
    """Status and exit code of a job, as Ray's job server has them; ("", None) where `ray job submit` told of an error
    and the server does not know the job, or does not answer.
    """
    from ray.job_submission import JobSubmissionClient

    try:
        job: Any = JobSubmissionClient(address).get_job_info(name)
    except (ConnectionError, RuntimeError):
        if not told:
            raise
        return "", None
    return str(job.status.value), job.driver_exit_code


def exit_code(told: int, status: str, own: int | None) -> int:
    """What to end with, from the exit code of `ray job submit`, the job's status, and the code that it ended with."""
    if own is not None:
        return own if own >= 0 else 128 - own
    return told or int(status == "STOPPED")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
