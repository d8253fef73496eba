"""What a broker can do, seen through mqttkit: each check returns a word for the matrix."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import mqttkit
from mqttkit.errors import MqttkitError
from mqttkit.messages import Message, Outcome, Properties, Subscription
from tests.interoperability.nodes import Cluster

SECONDS = 20.0
"""How long a check waits for the broker."""
QUIET = 2.0
"""After this long without a message, no more come."""
SIZES = (("16 MB", 16_000_000), ("8 MB", 8_000_000), ("1 MB", 1_000_000), ("200 kB", 200_000), ("50 kB", 50_000))


def client(cluster: Cluster, node: int = 0, **options: Any) -> Any:
    """Return a client of a node."""
    url = f"mqtt://127.0.0.1:{cluster.ports[node % len(cluster.ports)]}"
    return mqttkit.connect(url, retry=False, **options)


def topic(name: str) -> str:
    """Return a topic that no other check uses."""
    return f"mqttkit/{name}/{secrets.token_hex(4)}"


def versions(cluster: Cluster) -> str:
    """Return the MQTT versions that it speaks."""
    found = []
    for version, name in (("5", "5"), ("311", "3.1.1")):
        try:
            with client(cluster, version=version, connect_timeout=10.0):
                found.append(name)
        except MqttkitError:
            continue
    return ", ".join(found)


def qos(cluster: Cluster) -> str:
    """Return the levels of QoS at which a message arrives as it was sent."""
    found = []
    for level in (0, 1, 2):
        place = topic(f"qos{level}")
        try:
            with client(cluster) as receiver, client(cluster, -1) as sender:
                granted = receiver.subscribe(place, qos=level, timeout=SECONDS)
                sender.publish(place, b"x", qos=level).result(SECONDS)
                message = next(receiver.messages(SECONDS), None)
            if granted == [level] and message is not None and message.qos == level:
                found.append(str(level))
        except (MqttkitError, TimeoutError):
            continue
    return ", ".join(found)


def retained(cluster: Cluster) -> str:
    """Return to which filters a retained message comes."""
    place = topic("retained")
    with client(cluster) as sender:
        sender.publish(f"{place}/a", b"kept", qos=1, retain=True).result(SECONDS)
    found = []
    for name, topic_filter in (("exact", f"{place}/a"), ("wildcard", f"{place}/#")):
        with client(cluster, -1) as receiver:
            receiver.subscribe(topic_filter, timeout=SECONDS)
            message = next(receiver.messages(QUIET), None)
        if message is not None and message.retain:
            found.append(name)
    with client(cluster) as sender:
        sender.publish(f"{place}/a", b"", qos=1, retain=True).result(SECONDS)
    return ", ".join(found) or "no"


def will(cluster: Cluster) -> str:
    """Return whether the will of a killed client arrives."""
    place = topic("will")
    with client(cluster, -1) as receiver:
        receiver.subscribe(place, timeout=SECONDS)
        words = ["sub", "-p", str(cluster.ports[0]), "-h", "127.0.0.1", "--will-topic", place, "--will-payload", "gone"]
        with subprocess.Popen(
            [sys.executable, "-m", "mqttkit", *words, "-d", f"{place}/x"], stderr=subprocess.PIPE
        ) as doomed:
            assert doomed.stderr is not None
            for line in doomed.stderr:
                if b"connected" in line.lower():
                    break
            doomed.kill()
        return "yes" if next(receiver.messages(SECONDS), None) is not None else "no"


def kept_session(cluster: Cluster) -> str:
    """Return whether it keeps messages for a client that is away."""
    place, name = topic("session"), f"kept-{secrets.token_hex(4)}"
    options: dict[str, Any] = {"client_id": name, "clean_session": False, "session_expiry": 600}
    with client(cluster, **options) as away:
        away.subscribe(place, qos=1, timeout=SECONDS)
    with client(cluster, -1) as sender:
        for number in range(100):
            sender.publish(place, b"%d" % number, qos=1).result(SECONDS)
    with client(cluster, **options) as back:
        got = [int(message.payload) for message in back.messages(QUIET)]
        back.unsubscribe(place, timeout=SECONDS)
    with client(cluster, client_id=name):
        pass  # a clean session removes the kept one
    if got == list(range(100)):
        return "yes"
    return f"{len(set(got))} of 100" + ("" if got == sorted(got) else ", not in order")


def shared(cluster: Cluster) -> str:
    """Return whether $share shares: 200 messages, each to one of two members."""
    place = topic("shared")
    with client(cluster) as first, client(cluster, -1) as second, client(cluster) as sender:
        try:
            for member in (first, second):
                member.subscribe(f"$share/group/{place}", qos=1, timeout=SECONDS)
        except MqttkitError as error:
            return f"denied ({getattr(error, 'reason', error)})"
        time.sleep(QUIET)  # a cluster tells its other nodes
        for number in range(200):
            sender.publish(place, b"%d" % number, qos=1).result(SECONDS)
        counts = [len(list(member.messages(QUIET))) for member in (first, second)]
    if sum(counts) == 0:
        return "grants, delivers nothing"
    return "yes" if sum(counts) == 200 and min(counts) else f"{counts[0]} + {counts[1]} of 200"


def properties(cluster: Cluster) -> str:
    """Return whether the properties of a message arrive."""
    place = topic("properties")
    sent = Properties(1, None, "text/plain", "r/t", b"\0c", (("a", "1"), ("a", "2")))
    with client(cluster) as receiver, client(cluster, -1) as sender:
        if receiver.protocol_version != 5:
            return "no (3.1.1)"
        receiver.subscribe(place, timeout=SECONDS)
        sender.publish(place, b"x", qos=1, properties=sent).result(SECONDS)
        message: Message | None = next(receiver.messages(SECONDS), None)
    if message is None or message.properties is None:
        return "no"
    lost = [name for name in sent.__dataclass_fields__ if getattr(sent, name) != getattr(message.properties, name)]
    return "yes" if not lost else f"without {', '.join(lost)}"


def subscription_options(cluster: Cluster) -> str:
    """Return whether retain as published and no local hold, which MQTT 5 adds."""
    place = topic("options")
    with client(cluster) as one:
        if one.protocol_version != 5:
            return "no (3.1.1)"
        one.subscribe(Subscription(place, no_local=True, retain_as_published=True), timeout=SECONDS)
        one.publish(place, b"own", qos=1).result(SECONDS)
        with client(cluster, -1) as other:
            other.publish(place, b"other", qos=1, retain=True).result(SECONDS)
            message = next(one.messages(SECONDS), None)
            other.publish(place, b"", qos=1, retain=True).result(SECONDS)
    if message is None:
        return "no"
    missing = ["no local"] * (message.payload == b"own") + ["retain as published"] * (not message.retain)
    return "yes" if not missing else f"without {', '.join(missing)}"


def largest(cluster: Cluster) -> str:
    """Return the largest payload of a few sizes that arrives."""
    for name, size in SIZES:
        place = topic("large")
        try:
            with client(cluster) as receiver, client(cluster, -1) as sender:
                receiver.subscribe(place, timeout=SECONDS)
                receipt = sender.publish(place, bytes(size), qos=1)
                if receipt.wait(SECONDS) is not Outcome.ACKNOWLEDGED:
                    continue
                message = next(receiver.messages(SECONDS), None)
            if message is not None and len(message.payload) == size:
                return name
        except MqttkitError:
            continue
    return "under 50 kB"


FEATURES: dict[str, Callable[[Cluster], str]] = {
    "MQTT": versions,
    "QoS": qos,
    "retained": retained,
    "will": will,
    "kept session": kept_session,
    "`$share`": shared,
    "properties": properties,
    "options of MQTT 5": subscription_options,
    "payload": largest,
}
"""The columns of the matrix."""


def examine(cluster: Cluster) -> dict[str, str]:
    """Return the result of each check; an error of a check is its result."""
    found = {}
    for name, check in FEATURES.items():
        try:
            found[name] = check(cluster)
        except (MqttkitError, TimeoutError) as error:
            found[name] = f"error: {error}"[:80]
    return found
