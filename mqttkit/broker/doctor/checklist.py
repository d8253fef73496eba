"""The production checklist of a broker that `up` started, as checks that probe it."""

from __future__ import annotations

from collections.abc import Iterator

from mqttkit.broker.doctor import access, files, host, message_flow, tls
from mqttkit.broker.doctor.examined_broker import (
    ExaminedBroker,
    down,
    lacks,
    without_tls,
    without_websocket,
)
from mqttkit.broker.doctor.findings import Check, Finding, run_checks
from mqttkit.broker.protocol import Broker, Feature

ACL = (lacks(Feature.ACL), down)
FILES = (lacks(Feature.USERS),)
TLS = (lacks(Feature.TLS), without_tls, down)

CHECKS: tuple[Check[ExaminedBroker], ...] = (
    Check("answers", "the broker answers its operator", access.answers),
    Check("anonymous", "clients without a user are refused on every listener", access.anonymous, (down,)),
    Check("strangers", "made-up credentials are refused on every listener", access.strangers, (down,)),
    Check("plain-text", "nothing plain-text listens beyond loopback", access.plain_text, (down,)),
    Check("addresses", "listeners are bound where they should be, by the broker", access.addresses, (down,)),
    Check("websocket", "the WebSocket port speaks MQTT", access.websocket, (without_websocket, down)),
    Check("forbidden-topic", "a forbidden topic is silent both ways", message_flow.forbidden_topic, ACL),
    Check("wide-filters", "# and $SYS/# are closed to ordinary users", message_flow.wide_filters, ACL),
    Check("tls-versions", "TLS older than 1.2 is refused", tls.versions, TLS),
    Check("tls-chain", "the certificate fits the address and its authority", tls.chain, TLS),
    Check("tls-expiry", "the certificate lasts another 30 days", tls.expiry, TLS),
    Check("tls-serial", "the certificate served is the one on disk", tls.serial, TLS),
    Check("client-certificates", "a client certificate is demanded where that is set", tls.client_certificate, TLS),
    Check("acl", "the ACL file says what it seems to say", files.acl, (lacks(Feature.ACL),)),
    Check("passwords", "every password line works and is hashed well", files.passwords, FILES),
    Check("files", "configuration is the broker's, and nobody else reads it", files.owners),
    Check("settings", "mosquitto.conf is what mqttkit wrote", files.settings, (lacks(Feature.TUNING),)),
    Check("log", "the log shows no errors", files.log_errors),
    Check("user", "the broker does not run as root", host.user, (down,)),
    Check("descriptors", "file descriptors suffice for max_connections", host.descriptors, (down,)),
    Check("memory", "memory suffices", host.memory, (down,)),
    Check("disk", "the data directory has space", host.disk),
    Check("data", "data outlives a restart", host.data),
    Check("last-save", "the database was saved lately", host.last_save, (lacks(Feature.PERSISTENCE), down)),
    Check("restart-policy", "the broker comes back after a crash or reboot", host.restart_policy),
    Check("image", "the image is pinned", host.image),
)
"""Every check, in the order of the report."""


def examine(broker: Broker) -> Iterator[Finding]:
    """Yield what each check finds on a broker that was set up."""
    yield from run_checks(CHECKS, ExaminedBroker.of(broker))
