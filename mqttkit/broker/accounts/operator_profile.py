"""The profile of a mosquitto that `up` starts: its users and its ports."""

from __future__ import annotations

from mqttkit.broker.accounts.passwords import generate_password
from mqttkit.broker.mosquitto import configuration
from mqttkit.broker.ports import reachable_host
from mqttkit.broker.profile import BrokerPaths, BrokerSpec, Profile


def mosquitto_profile(
    spec: BrokerSpec, paths: BrokerPaths, old: Profile | None, *, backend: str, image: str | None = None
) -> Profile:
    """Return the profile of operator and probe; they keep the passwords of `old`."""
    host, other_host = reachable_host(spec.plain_listen if spec.plain else spec.listen), reachable_host(spec.listen)
    return Profile(
        name=spec.name,
        backend=backend,
        host=host,
        port=spec.port if spec.plain else spec.tls_port or 0,
        plain=spec.plain,
        username=configuration.OPERATOR,
        password=(old and old.password) or generate_password(),
        probe_username=configuration.PROBE,
        probe_password=(old and old.probe_password) or generate_password(),
        websocket_port=spec.websocket_port or None,
        tls_port=spec.tls_port or None,
        websocket_tls=spec.websocket_tls,
        other_host=other_host if other_host != host else None,
        ca_file=str(paths.authority / "ca.crt") if spec.tls else None,
        image=image,
    )
