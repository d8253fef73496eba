"""The embedded broker's process: `python -m mqttkit.broker.backends.embedded_process CONFIG [--with-parent]`."""

from __future__ import annotations

import ctypes
import logging
import os
import pwd
import signal
import sys
import threading
from collections.abc import Callable

log = logging.getLogger("mqttkit.broker.embedded")


PR_SET_PDEATHSIG = 1


def main(config: str, *, with_parent: bool) -> None:
    """Run the broker of a rumqttd configuration file until SIGTERM, or until the parent process ends."""
    from iotcore.iotcore import IotCoreBroker

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # rumqttd reports each packet as an error record, client identifiers and topics included.
    for name in ("rumqttd", "tracing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    broker = IotCoreBroker(config_path=config)
    drop_privileges()
    if with_parent:
        # After the change of user, because the kernel clears this setting then.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_serve, args=(broker.run_forever,), daemon=True).start()
    signal.sigwait({signal.SIGTERM})
    log.info("stopped")
    _end(0)


def drop_privileges() -> None:
    """Give up the rights of root: the broker has read its configuration and needs none."""
    if os.geteuid() != 0:
        return
    user = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def _serve(run: Callable[[], None]) -> None:
    """Run rumqttd, which cannot be stopped: when it ends, the process ends."""
    try:
        run()
    finally:
        log.error("Error: the broker ended", exc_info=True)
        _end(1)


def _end(code: int) -> None:
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], with_parent="--with-parent" in sys.argv[2:])
