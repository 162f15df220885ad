"""How a described API is asked for its jobs."""

from __future__ import annotations

from dataclasses import dataclass

from evolvedirector.transport.url_guard import check_allowed_hosts


@dataclass(frozen=True)
class HTTPPolling:
    """Say where a job is asked for and what its states mean. Any other state means that it is not done yet.

    Args:
        status_url_path: where the first answer names the address to ask, such as `urls.get`.
        status_path: where the answer there says the state, such as `status`.
        done_values: states of a finished job.
        failed_values: states of a job that came to nothing.
        refused_values: states of a job that was refused.
        result_url_path: where the first answer names the address of the result; None: the status answer of a
            finished job holds the image.
        key_hosts: hosts besides the service itself that the key may be sent to for polling.
        poll_every_s: seconds between two questions.

    Raises:
        ValueError: no state is final, or a host allows more than meant.
    """

    status_url_path: str
    status_path: str
    done_values: tuple[str, ...]
    failed_values: tuple[str, ...] = ()
    refused_values: tuple[str, ...] = ()
    result_url_path: str | None = None
    key_hosts: tuple[str, ...] = ()
    poll_every_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.done_values:
            raise ValueError("done_values is empty. Allowed is at least one state. Write [succeeded], say.")
        check_allowed_hosts(self.key_hosts)
