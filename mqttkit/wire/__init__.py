"""The batched socket under paho: `PahoClient` is paho's client with whole batches of packets on its socket.

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
