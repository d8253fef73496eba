"""Controllers over publish/subscribe, through mqttkit's public API.

A regional controller subscribes to the discovery reports of its region, a local controller publishes one; neither
knows the other's address. Run it against the broker that `mqttkit broker up` started, or against any other:

    python examples/simulate_mqtt_pubsub.py
    python examples/simulate_mqtt_pubsub.py --host localhost --port 1883
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from mqttkit.broker.profile import load_profile
from mqttkit.client import MqttClient
from mqttkit.controller import LocalController, RegionalController
from mqttkit.controller.security.keys import KeyFile, KeyRing, generate
from mqttkit.errors import MqttkitError
from mqttkit.settings import BrokerSettings, ClientSettings, ControllerSettings, MqttSettings

REGION = "zone-A"


def main() -> int:
    """Run the walkthrough; return 0 if the report arrived unchanged."""
    arguments = parse_arguments()
    try:
        with tempfile.TemporaryDirectory() as directory:
            return run(Path(directory), broker_settings(arguments), arguments.base)
    except MqttkitError as error:
        print(f"failed: {error}", file=sys.stderr)
        return error.exit_code


def broker_settings(arguments: argparse.Namespace) -> MqttSettings:
    """Return the broker from the options, else the one that `mqttkit broker up` started, else localhost:1883."""
    profile = load_profile()
    if arguments.host is not None or arguments.port is not None or profile is None:
        return MqttSettings(broker=BrokerSettings(host=arguments.host or "localhost", port=arguments.port or 1883))
    return MqttSettings(broker=profile.to_broker_settings(), client=ClientSettings(version=profile.version))


def run(directory: Path, mqtt: MqttSettings, base: str) -> int:
    """Run the six steps."""
    print("[1/6] checking the MQTT broker")
    with MqttClient(mqtt, retry=False) as probe:
        probe.connect(timeout=5)
    print("[2/6] preparing the infrastructure")
    keys = directory / "keys.json"
    KeyFile(keys).save(KeyRing().add(generate("example")).activate("example"))

    def settings(name: str) -> ControllerSettings:
        return ControllerSettings(
            id=name,
            region=REGION,
            base=base,
            key_file=str(keys),
            state_file=str(directory / f"{name}.db"),
            keep_session=False,
        )

    print("[3/6] regional controller: connect and subscribe")
    with RegionalController(settings("regional_cntl_zone-A_1"), mqtt) as regional:
        regional.subscribe_to_discovery_reports()
        print(f"      subscribed to {regional.topics.discovery_filter(REGION)}")
        print("[4/6] local controller: connect")
        with LocalController(settings("local_cntl_zone-a_001"), mqtt) as local:
            local.subscribe_to_policy_updates()
            print("[5/6] discovery cycle: ARP, ICMP, SNMP (simulated)")
            report = local.run_discovery_cycle(subnet="192.168.1.0/24", seed=1)
            print(f"      {len(report['devices'])} devices found, report published")
            print("[6/6] waiting for the report")
            found = regional.wait_for_report(local.controller_id, timeout=10)
    if found is None or found.payload != report:
        print("      failed: the report did not arrive")
        return 1
    print("      received and matched")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--base", default="pdsno")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
