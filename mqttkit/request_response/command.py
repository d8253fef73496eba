"""Answer a request with the output of a command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

from mqttkit.errors import CommandFailed
from mqttkit.messages import Message

MAX_OUTPUT = 16 * 1024 * 1024
"""Bytes of output that an answer may have."""


def command_answer(command: str, seconds: float) -> Callable[[Message], bytes]:
    """Return a function that runs `command` in a shell for each request.

    The payload is its standard input, the topic is MQTT_TOPIC in its environment, and its standard output is the
    answer. The request is never part of the command line, so it cannot inject anything into the shell.
    """

    def answer(request: Message) -> bytes:
        environment = {**os.environ, "MQTT_TOPIC": request.topic, "MQTT_QOS": str(request.qos)}
        try:
            done = subprocess.run(  # noqa: S602  # the operator's own command line; the request goes to stdin
                command,
                shell=True,
                input=request.payload,
                capture_output=True,
                timeout=seconds,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"the command did not end within {seconds:g} s") from None
        except ValueError as error:
            raise CommandFailed(f"the topic cannot be passed to a command: {error}") from error
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise CommandFailed(f"the command ended with {done.returncode}: {last[0] if last else 'no message'}")
        if len(done.stdout) > MAX_OUTPUT:
            raise CommandFailed(f"the command printed {len(done.stdout):,} bytes; an answer has at most {MAX_OUTPUT:,}")
        return done.stdout

    return answer
