"""Check expectations one after the other on a broker."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mqttkit.client import MqttClient
from mqttkit.errors import CommandFailed, UsageError
from mqttkit.expectations.expectation import Ending, Expectation, Progress
from mqttkit.messages import Message
from mqttkit.settings import MqttSettings

POLL_SECONDS = 0.1
"""How often the command under test is looked at while no message arrives."""
END_SECONDS = 5.0
"""Time for the command to end after SIGTERM."""


@dataclass(frozen=True)
class StepResult:
    """One expectation and how it ended."""

    progress: Progress
    seconds: float

    @property
    def ending(self) -> Ending:
        """How it ended."""
        return self.progress.ending()


def run(
    settings: MqttSettings,
    expectations: Sequence[Expectation],
    *,
    qos: int = 1,
    command: Sequence[str] = (),
    report: Callable[[StepResult], None] | None = None,
) -> list[StepResult]:
    """Subscribe to every filter, start the command, and check the expectations in order; end at the first that fails.

    An expectation looks at messages that arrive after the message which met the one before it. Raises the client's
    errors, and CommandFailed if the command fails first.
    """
    results: list[StepResult] = []
    filters = dict.fromkeys(each.topic_filter for each in expectations)
    with MqttClient(settings, retry=False) as client:
        client.connect()
        client.subscribe(*filters, qos=qos)
        arrivals = _Arrivals(client)
        with _running(command) as process:
            for expectation in expectations:
                begin = time.monotonic()
                progress = Progress(expectation)
                _wait(arrivals, progress, begin + expectation.seconds, process)
                results.append(StepResult(progress, time.monotonic() - begin))
                if report is not None:
                    report(results[-1])
                if results[-1].ending is not Ending.MATCHED:
                    break
    return results


class _Arrivals:
    """The messages of a client, one at a time; those of a batch that are not looked at yet are kept."""

    def __init__(self, client: MqttClient) -> None:
        self._client = client
        self._messages: Iterator[Message] = iter(())

    def next(self) -> Message | None:
        """Return the next message, or None if none arrived for a moment."""
        message = next(self._messages, None)
        if message is None:
            self._messages = self._client.messages(POLL_SECONDS)
            message = next(self._messages, None)
        return message


def _wait(arrivals: _Arrivals, progress: Progress, deadline: float, process: subprocess.Popen[bytes] | None) -> None:
    """Look at messages until the outcome is known or the time is up."""
    while time.monotonic() < deadline:
        message = arrivals.next()
        if message is not None:
            if progress.look_at(message):
                return
            continue
        code = None if process is None else process.poll()
        if code:
            raise CommandFailed(f"the command ended with {code} before there was {progress.expectation.text()}")


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes] | None]:
    """Run the command, with its standard output on our standard error; end it with SIGTERM."""
    if not command:
        yield None
        return
    try:
        process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=2)
    except OSError as error:
        raise UsageError(f"cannot run {command[0]}: {error.strerror}") from error
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
