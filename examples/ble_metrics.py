"""Turn advertisements, as `mqttkit sub --json` prints them, into metrics of the bridge for `mqttkit pub --json`."""

import json
import sys

TENANT = "6f1d7c1e-0000-4000-8000-000000000001"

for line in sys.stdin:
    reading = json.loads(json.loads(line)["payload"])
    scanner = reading["scanner_id"]
    metric = {
        "value": reading["rssi"],
        "timestamp": reading["timestamp"],
        "dedupe_id": f"{reading['timestamp']}-{reading['sequence']}",
        "tags": {"mac_address": reading["mac_address"]},
    }
    if reading["rssi"] is not None:
        message = {"topic": f"metrics/{TENANT}/{scanner}/rssi", "qos": 1, "payload": json.dumps(metric)}
        print(json.dumps(message), flush=True)
