"""The profile of a broker that `mqttkit broker up` runs, recognised by its address."""

from __future__ import annotations

from mqttkit.addresses import is_loopback
from mqttkit.broker.profile import BrokerPaths, Profile, broker_names, load_profile, load_spec
from mqttkit.errors import MqttkitError
from mqttkit.settings import MqttSettings


def local_profile(settings: MqttSettings) -> str:
    """Return name, backend and tuning profile of the broker that the settings lead to; empty if it is not ours."""
    wanted = {(_normal(host), port) for host, port in settings.broker.addresses()}
    try:
        for name in broker_names():
            profile = load_profile(name)
            if profile is not None and wanted & _addresses(profile):
                spec = load_spec(BrokerPaths.of(name))
                tuning = f", tuned {spec.tuning}" if spec is not None else ""
                return f"{name}: {profile.backend}{tuning}"
    except MqttkitError:  # an unreadable profile of a broker that this view does not need
        return ""
    return ""


def _addresses(profile: Profile) -> set[tuple[str, int]]:
    first, other = _normal(profile.host), _normal(profile.other_host or profile.host)
    ports = [(first, profile.port), (first, profile.v5_port)]
    ports += [(other, profile.tls_port), (other, profile.websocket_port)]
    return {(host, port) for host, port in ports if port}


def _normal(host: str) -> str:
    return "localhost" if is_loopback(host) else host.casefold()
