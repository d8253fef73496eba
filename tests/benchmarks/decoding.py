"""Measure `mqttkit decode` at 10,000 advertisements a second: `make bench-decode`.

728 real advertisements, over and over, as five gateways would publish them. Nothing is taken for a duplicate, so that
each one is decoded. Once a second a thermometer changes, and the time until its state is published is measured.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from mqttkit.bench.own_broker import own_broker
from mqttkit.client import MqttClient
from mqttkit.decode import Decoders
from mqttkit.decode.beacons import EDDYSTONE
from mqttkit.decode.service import DecodeService, will_of
from mqttkit.messages import Message
from mqttkit.publisher import Publisher
from mqttkit.scan_publisher import format_advertisement
from mqttkit.scanner import Advertisement
from mqttkit.settings import BrokerSettings, DecodeSettings, MqttSettings
from tests.benchmarks.figures import at_least, at_most, say
from tests.support.process_usage import private_memory

CAPTURE = Path(__file__).parents[2] / "examples" / "captures" / "adverts.jsonl"
GATEWAYS = 5
PARTS = 100
"""A second's messages leave in so many parts."""
WARM_UP_SECONDS = 3.0
MIB = 1024 * 1024
MARKER = "02:00:00:00:00:01"
STATE = "ble/state/{mac_address}"


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--serve", metavar="PORT", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        _serve(given.serve)
        return
    with own_broker() as broker:
        command = [sys.executable, "-m", "tests.benchmarks.decoding", "--serve", str(broker.port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            try:
                _measure(broker, service, given.rate, given.seconds)
            finally:
                service.terminate()


def _serve(port: int) -> None:
    """Run the service until SIGTERM; print what it did as JSON."""
    settings = DecodeSettings(state=STATE, window=0.0)
    with MqttClient(_settings(port), will=will_of(settings)) as client:
        decoders = Decoders()
        service = DecodeService(client, decoders, settings)
        signal.signal(signal.SIGTERM, lambda *_: service.stop())
        client.connect(timeout=10)
        service.run()
        memory = private_memory()
    counts = {"advertisements": decoders.counts.advertisements, "decoded": decoders.counts.decoded}
    say(json.dumps({"summary": str(service), "cpu": time.process_time(), "memory": memory, **counts}))


def _measure(broker: BrokerSettings, service: subprocess.Popen[str], rate: int, seconds: int) -> None:
    found: dict[str, float] = {}

    def note(messages: list[Message]) -> None:
        for message in messages:
            values = json.loads(message.payload)["values"]
            found.setdefault(str(values["temperature"]), time.perf_counter())

    with MqttClient(_settings(broker.port), on_messages=note) as client:
        client.connect(timeout=10)
        client.subscribe(STATE.format(mac_address=MARKER))
        publisher, messages = Publisher(client), _messages()
        sent, changed = 0, dict[str, float]()
        part = rate // PARTS
        due = time.perf_counter() + WARM_UP_SECONDS
        time.sleep(WARM_UP_SECONDS)
        for number in range(seconds * PARTS):
            block = [next(messages) for _ in range(part)]
            if number % PARTS == 0:
                changed[f"{20.0 + number // PARTS}"] = time.perf_counter()
                block.append(_marker(20 + number // PARTS))
            publisher.send(block)
            sent += len(block)
            due += 1 / PARTS
            time.sleep(max(due - time.perf_counter(), 0))
        late = time.perf_counter() - due
        time.sleep(1.0)  # what is on its way may arrive; what is late by then counts as not held
    service.terminate()
    output, _ = service.communicate(timeout=60)
    result = json.loads(output)
    delays = sorted(found[each] - at for each, at in changed.items() if each in found)
    taken = result["advertisements"]
    say(f"{result['summary']}; the load was late by {late * 1e3:.0f} ms at the end")
    say(str(at_least("rate held", rate * min(taken / sent, 1.0), "advertisements/s", rate * 0.999)))
    say(str(at_most("lost", sent - taken, "advertisements", 1)))
    say(str(at_most("CPU", result["cpu"] / taken * 1e6, "us per advertisement", 100, "with imports and publishing")))
    say(str(at_most("private memory", result["memory"] / MIB, "MiB", 60)))
    if delays:
        say(f"advertisement to state: median {statistics.median(delays) * 1e3:.1f} ms, worst {delays[-1] * 1e3:.1f} ms")


def _messages() -> Iterator[Message]:
    advertisements = []
    for line in CAPTURE.read_text("utf-8").splitlines():
        fields = json.loads(line)
        fields["timestamp"] = 0
        advertisements.append(Advertisement.from_json(fields, timestamp=0.0))
    for number, advertisement in enumerate(cycle(advertisements), 1):
        gateway = f"gateway-{number % GATEWAYS}"
        payload = format_advertisement(advertisement, gateway, number)
        yield Message(f"ble/raw/{gateway}/{advertisement.mac_address}", payload)


def _marker(temperature: int) -> Message:
    data = bytes([0x20, 0, 0, 0, temperature, 0, *bytes(8)])
    beacon = Advertisement(mac_address=MARKER, timestamp=0, rssi=-50, service_data={EDDYSTONE: data})
    return Message(f"ble/raw/gateway-0/{MARKER}", format_advertisement(beacon, "gateway-0", 1))


def _settings(port: int) -> MqttSettings:
    return MqttSettings(broker=BrokerSettings(host="127.0.0.1", port=port))


if __name__ == "__main__":
    main()
