"""A mosquitto for one run: loopback, anonymous, quiet, without a limit on what it queues."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mqttkit.errors import LifecycleError, MissingPart
from mqttkit.settings import BrokerSettings

START_SECONDS = 10.0
CONF = """listener {port} 127.0.0.1
allow_anonymous true
log_type error
max_queued_messages 10000000
persistence false
"""


@contextlib.contextmanager
def own_broker(*lines: str) -> Iterator[BrokerSettings]:
    """Run a mosquitto on a free loopback port, whose queues end with it; `lines` are added to its configuration."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise MissingPart("mosquitto is not installed", hint="Try: sudo apt-get install mosquitto")
    with tempfile.TemporaryDirectory(prefix="mqttkit-bench-") as directory:
        port = _free_port()
        conf = Path(directory) / "mosquitto.conf"
        user = ("user root",) if os.geteuid() == 0 else ()
        conf.write_text(CONF.format(port=port) + "".join(f"{line}\n" for line in (*user, *lines)))
        process = subprocess.Popen(
            [program, "-c", str(conf)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            _wait_until_listening(process, port)
            yield BrokerSettings(host="127.0.0.1", port=port)
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise LifecycleError(f"mosquitto did not begin to listen on port {port}")
        time.sleep(0.02)
