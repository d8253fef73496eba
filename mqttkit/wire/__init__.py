"""The batched socket under paho: `PahoClient` is paho's client with whole batches of packets on its socket.

    outbox = Outbox(limits)                    # bounded queue and send window; any thread
    client = PahoClient(...)                   # paho's interface, all of it
    client.attach(outbox, on_batch)            # before connecting
    receipt = outbox.put(topic, payload, qos, retain=..., properties=..., wait=...)
    client.wake()                              # after each put: a byte only for a loop that sleeps
    receipt.wait(timeout)                      # or .outcome, .code, .reason
    on_batch(messages)                         # in the network thread, a list of what one read gave

`put` wants the topic name with its two bytes of length first, and properties encoded by `encode_properties`. The
outbox resolves every receipt: SENT when the operating system has a QoS 0 publish whole, ACKNOWLEDGED or DENIED by
PUBACK or PUBCOMP, DROPPED without a connection or room, LOST by `outbox.lose`, which the owner calls when a
connection ends or its session is gone. `client.pause_reading(True)` lets TCP hold the broker back, and pings go on.
A topic alias is never accepted: no Topic Alias Maximum is announced.

`MQTTKIT_PLAIN_PAHO=1` in the environment makes `PahoClient` paho's own class.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mqttkit.wire.deferred import deferred_imports

with deferred_imports():
    import paho.mqtt.client as paho

    from mqttkit.wire.outbox import Outbox, Receipt
    from mqttkit.wire.properties import encode as encode_properties
    from mqttkit.wire.seam import BatchedClient

PLAIN = os.environ.get("MQTTKIT_PLAIN_PAHO", "") not in ("", "0")

if TYPE_CHECKING:
    PahoClient = BatchedClient
else:
    PahoClient = paho.Client if PLAIN else BatchedClient

__all__ = ["PLAIN", "BatchedClient", "Outbox", "PahoClient", "Receipt", "encode_properties"]
