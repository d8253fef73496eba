"""A mosquitto for one run: on loopback, anonymous, with unlimited queues, optionally with TLS or WebSockets."""

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

from mqttkit.broker.certificates.authority import Authority
from mqttkit.broker.ports import free_port
from mqttkit.errors import LifecycleError, MissingPart
from mqttkit.files import write_secret
from mqttkit.settings import BrokerSettings, TlsSettings

START_SECONDS = 10.0
CERTIFICATE_DAYS = 1
CONF = """allow_anonymous true
log_type error
max_queued_messages 10000000
persistence false
"""


@contextlib.contextmanager
def own_broker(*lines: str, tls: bool = False, websockets: bool = False) -> Iterator[BrokerSettings]:
    """Run a mosquitto on a free loopback port while the body runs; add `lines` to its configuration.

    With `tls` it gets a temporary certificate, signed by a temporary authority.
    """
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise MissingPart("mosquitto is not installed", hint="Try: sudo apt-get install mosquitto")
    with tempfile.TemporaryDirectory(prefix="mqttkit-bench-") as directory:
        port = free_port()
        conf = Path(directory) / "mosquitto.conf"
        listener = _websocket_listener(port) if websockets else (f"listener {port} 127.0.0.1",)
        if tls:
            listener += _make_certificates(Path(directory))
        user = ("user root",) if os.geteuid() == 0 else ()
        conf.write_text(CONF + "".join(f"{line}\n" for line in (*user, *listener, *lines)))
        with _running([program, "-c", str(conf)], port):
            yield BrokerSettings(
                host="127.0.0.1",
                port=port,
                transport="websockets" if websockets else "tcp",
                tls=TlsSettings(ca_file=str(Path(directory) / "ca.crt")) if tls else None,
            )


def _websocket_listener(port: int) -> tuple[str, ...]:
    """Return a WebSocket listener and a TCP listener; mosquitto 2.0.11 does not start without the latter."""
    return (f"listener {free_port()} 127.0.0.1", f"listener {port} 127.0.0.1", "protocol websockets")


def _make_certificates(directory: Path) -> tuple[str, ...]:
    """Write an authority and a server certificate for loopback; return the lines for the listener."""
    authority = Authority.create("mqttkit bench", days=CERTIFICATE_DAYS)
    server = authority.sign_server(days=CERTIFICATE_DAYS)
    (directory / "ca.crt").write_bytes(authority.pem)
    (directory / "server.crt").write_bytes(server.certificate)
    write_secret(directory / "server.key", server.key)
    return (f"certfile {directory}/server.crt", f"keyfile {directory}/server.key")


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    """Start the broker, wait until it listens, and stop it after the body."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_until_listening(process, port)
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise LifecycleError(f"mosquitto did not start listening on port {port}")
        time.sleep(0.02)
