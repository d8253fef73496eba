"""From the settings of several outputs to the settings of one bridge for each."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mqttkit.bridge.flow.route import Route, Share
from mqttkit.bridge.metric import MetricParser
from mqttkit.bridge.session import normal_sink
from mqttkit.bridge.sparkplug.topic import NAMESPACE as SPARKPLUG_NAMESPACE
from mqttkit.errors import UsageError
from mqttkit.settings import BridgeSettings, OutputSettings, Settings, SinkSettings


@dataclass(frozen=True)
class Output:
    """One bridge of several."""

    name: str
    settings: Settings
    route: Route


def plan_outputs(settings: Settings) -> list[Output]:
    """Return the outputs that the settings name, or the one that `sink` chooses; raise UsageError."""
    bridge = settings.bridge
    names = output_names(bridge.outputs)
    _check_shared(bridge)
    shares = [
        Share(frozenset(tenant.lower() for tenant in output.only_tenants), output.only_metrics)
        for output in bridge.outputs
    ]
    planned = []
    for position, output in enumerate(bridge.outputs):
        if bridge.sink not in (None, names[position], output.sink):
            continue
        parser = MetricParser(bridge.topic, payload_limit=bridge.payload_limit)
        late = SPARKPLUG_NAMESPACE if bridge.sparkplug.enabled else ""
        route = Route(names[position], shares, position, parser, late=late, mapped=bridge.mapping is not None)
        planned.append(Output(names[position], _settings_of(settings, output, names[position]), route))
    if not planned:
        raise UsageError(f"no output {bridge.sink!r}", hint=f"Outputs: {', '.join(names)}")
    return planned


def chosen_sink(bridge: BridgeSettings) -> BridgeSettings:
    """Return the settings of the single sink to work on: of the output that `sink` names, if there are several."""
    if not bridge.outputs:
        return bridge
    names = output_names(bridge.outputs)
    _check_shared(bridge)
    if bridge.sink is None:
        raise UsageError("the settings name several outputs", hint=f"Choose one: --sink {names[0]}")
    for name, output in zip(names, bridge.outputs, strict=True):
        if bridge.sink in (name, output.sink):
            return _bridge_of(bridge, output)
    raise UsageError(f"no output {bridge.sink!r}", hint=f"Outputs: {', '.join(names)}")


def output_names(outputs: tuple[OutputSettings, ...]) -> list[str]:
    """Return the outputs' names; raise UsageError if two have the same name, place or ledger."""
    for output in outputs:
        if not output.sink:
            raise UsageError("an output has no sink", hint="Example: outputs: [{sink: 'sqlite:metrics.db'}]")
    names = [output.name or (output.sink or "").partition(":")[0] for output in outputs]
    places = [
        (normal_sink(output.sink or ""), output.table, output.stream, output.list, output.dead_letters)
        for output in outputs
    ]
    if len(set(places)) < len(places):
        raise UsageError("two outputs store in the same place", hint="Give each its own sink")
    ledgers = [Path(output.dead_letters).expanduser().absolute() for output in outputs if output.dead_letters]
    if len(set(ledgers)) < len(ledgers):
        hint = "Give each its own: the file also records what its sink has stored"
        raise UsageError("two outputs have one file for dead letters", hint=hint)
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        hint = f"Name them in mqttkit.yaml: bridge: outputs: [{{name: {name}-1, sink: …}}, …]"
        raise UsageError(f"two outputs have the name {name}", hint=hint)
    return names


def _check_shared(bridge: BridgeSettings) -> None:
    """Raise UsageError if a sink's option is set together with several outputs, because it would have no effect."""
    for item in dataclasses.fields(SinkSettings):
        if item.name != "sink" and getattr(bridge, item.name) != item.default:
            raise UsageError(
                f"bridge.{item.name} applies to one sink, and there are {len(bridge.outputs)} outputs",
                hint=f"Set it at its sink in mqttkit.yaml: bridge: outputs: [{{sink: …, {item.name}: …}}, …]",
            )


def _settings_of(settings: Settings, output: OutputSettings, name: str) -> Settings:
    """Return settings in which session, group and sink are the output's own."""
    bridge = settings.bridge
    group = f"{bridge.group}-{name}" if bridge.group else None
    client = settings.mqtt.client
    if client.client_id is not None:
        client = dataclasses.replace(client, client_id=f"{client.client_id}-{name}")
    return dataclasses.replace(
        settings,
        bridge=dataclasses.replace(_bridge_of(bridge, output), group=group, health_port=None),
        mqtt=dataclasses.replace(settings.mqtt, client=client),
    )


def _bridge_of(bridge: BridgeSettings, output: OutputSettings) -> BridgeSettings:
    own = {item.name: getattr(output, item.name) for item in dataclasses.fields(SinkSettings)}
    return dataclasses.replace(bridge, outputs=(), **own)
