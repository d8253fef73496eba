"""The production checklist of a broker that `up` started."""

from __future__ import annotations

from collections.abc import Iterator

from mqttkit.broker.doctor import access, files, firewall, host, message_flow, tls
from mqttkit.broker.doctor.examined_broker import (
    ExaminedBroker,
    down,
    lacks,
    without_tls,
    without_websocket,
)
from mqttkit.broker.doctor.files import marked_in_log
from mqttkit.broker.doctor.findings import Check, Finding, run_checks
from mqttkit.broker.protocol import Broker, Feature

ACL = (lacks(Feature.ACL), down)
FILES = (lacks(Feature.USERS),)
TLS = (lacks(Feature.TLS), without_tls, down)

CHECKS: tuple[Check[ExaminedBroker], ...] = (
    Check("answers", "the broker answers its operator", access.answers),
    Check("anonymous", "clients without a user are refused on every listener", access.anonymous, (down,)),
    Check("strangers", "random credentials are refused on every listener", access.strangers, (down,)),
    Check("plain-text", "listeners without TLS are bound to loopback", access.plain_text, (down,)),
    Check("network", "what the network reaches needs a user with few rights", access.network, (*FILES, down)),
    Check("firewall", "a firewall lets in who should connect", firewall.firewall, (down,)),
    Check("addresses", "the broker holds its ports on the right addresses", access.addresses, (down,)),
    Check("websocket", "the WebSocket port speaks MQTT", access.websocket, (without_websocket, down)),
    Check(
        "forbidden-topic",
        "the ACL denies forbidden publishes and subscriptions",
        message_flow.forbidden_topic,
        ACL,
    ),
    Check("wide-filters", "ordinary users cannot read # and $SYS/#", message_flow.wide_filters, ACL),
    Check("tls-versions", "TLS older than 1.2 is refused", tls.versions, TLS),
    Check("tls-chain", "the certificate matches the address and its authority", tls.chain, TLS),
    Check("tls-expiry", "the certificate is valid for another 30 days", tls.expiry, TLS),
    Check("tls-serial", "the broker serves the certificate on disk", tls.serial, TLS),
    Check("client-certificates", "a client certificate is required if that is set", tls.client_certificate, TLS),
    Check("acl", "the ACL file is valid and means what it seems to mean", files.acl, (lacks(Feature.ACL),)),
    Check("passwords", "every password line is valid and has a good hash", files.passwords, FILES),
    Check("files", "only the broker can read its files", files.owners),
    Check("settings", "mosquitto.conf is as mqttkit wrote it", files.settings, (lacks(Feature.TUNING),)),
    Check("log", "the log shows no errors", files.log_errors),
    Check("user", "the broker does not run as root", host.user, (down,)),
    Check("descriptors", "there are enough file descriptors for max_connections", host.descriptors, (down,)),
    Check("memory", "there is enough memory", host.memory, (down,)),
    Check(
        "queues",
        "there is memory for the queues of absent clients",
        host.queues,
        (lacks(Feature.STATISTICS, Feature.TUNING), down),
    ),
    Check("sessions", "sessions of clients that never return end", host.sessions, (lacks(Feature.TUNING),)),
    Check("health", "the health check succeeds", host.health, (down,)),
    Check("disk", "the data directory has space", host.disk),
    Check("data", "data survives a restart", host.data),
    Check("last-save", "the database was saved recently", host.last_save, (lacks(Feature.PERSISTENCE), down)),
    Check("backup", "there is a recent backup", host.backup, (lacks(Feature.PERSISTENCE),)),
    Check("restart-policy", "the broker restarts after a crash or reboot", host.restart_policy),
    Check("image", "the image is pinned", host.image),
)
"""Every check, in the order of the report."""


def examine(broker: Broker) -> Iterator[Finding]:
    """Yield the findings of each check on a broker that `up` created."""
    examined = ExaminedBroker.of(broker)
    with marked_in_log(examined):
        yield from run_checks(CHECKS, examined)
