"""A scenario to the readings that its sensors take: the same seed, the same readings. Pure."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mqttkit.nodes.waveforms import Model, Signal, Waveform, model_of
from mqttkit.topics import check_level, check_template, fill_template

FAULTS = ("dropout", "burst", "clock_skew", "duplicates", "stuck", "outliers")
TOPIC = "sensor/{sensor_id}/{model}"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that goes wrong with some sensors of a fleet for a while."""

    kind: str
    """`dropout` (taken, not sent), `burst`, `clock_skew`, `duplicates`, `stuck` or `outliers`."""
    at: float = 0.0
    """Seconds after the start when it begins."""
    seconds: float = 1e9
    """How long it lasts."""
    sensors: float = 1.0
    """Share of the fleet's sensors that it affects, 0 to 1."""
    share: float = 1.0
    """Share of the readings that it affects meanwhile, 0 to 1."""
    factor: float = 10.0
    """`burst`: times the rate; `outliers`: times the amplitude."""
    offset: float = 60.0
    """`clock_skew`: seconds that the sensor's clock is ahead."""

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise ValueError(f"fault kind must be one of {', '.join(FAULTS)}, got {self.kind!r}")
        if not (0 <= self.share <= 1 and 0 <= self.sensors <= 1):
            raise ValueError("a fault's share and sensors are 0 to 1")
        if self.at < 0 or self.seconds <= 0 or self.factor <= 0:
            raise ValueError("a fault's at is 0 or more, its seconds and factor more than 0")


@dataclass(frozen=True, kw_only=True)
class SensorFleet:
    """Sensors of one kind."""

    name: str = "sensor"
    """First part of each sensor's identifier: name-001."""
    count: int = 1
    """Number of sensors."""
    rate: float = 1.0
    """Readings a second of each sensor."""
    model: str = "temperature"
    """Kind of sensor: its unit, and its waveform unless `waveform` is set."""
    waveform: Waveform | None = None
    """How the value changes; the model's waveform if None."""
    qos: int = 1
    """Quality of service."""
    faults: tuple[Fault, ...] = ()
    """The faults."""

    def __post_init__(self) -> None:
        check_level(self.name, "fleet name")
        if not 1 <= self.count <= 100_000 or not 0 < self.rate <= 100_000:
            raise ValueError("a fleet's count is 1 to 100000, its rate more than 0 and at most 100000")
        if self.qos not in (0, 1, 2):
            raise ValueError(f"qos must be 0 to 2, got {self.qos}")
        model_of(self.model)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A complete simulation."""

    seed: int = 0
    """The same seed, the same readings."""
    duration: float | None = None
    """Seconds; null runs until stopped."""
    topic: str = TOPIC
    """Topic template; {fleet}, {sensor_id} and {model} are filled in."""
    fleets: tuple[SensorFleet, ...] = ()
    """The sensors."""

    def __post_init__(self) -> None:
        check_template(self.topic, ("fleet", "sensor_id", "model"))
        names = [fleet.name for fleet in self.fleets]
        if not names or len(set(names)) != len(names):
            raise ValueError("a scenario needs at least one fleet, and each fleet needs a different name")
        if self.duration is not None and self.duration <= 0:
            raise ValueError("duration is more than 0")

    def sensors(self) -> list[str]:
        """Return the identifier of every sensor."""
        return [sensor_id(fleet, index) for fleet in self.fleets for index in range(fleet.count)]


@dataclass(frozen=True)
class SensorReading:
    """One reading on its way."""

    moment: float
    """Seconds after the start when it is sent."""
    sensor_id: str
    topic: str
    qos: int
    sequence: int
    """Counts the sensor's readings from 1; a reading that is not sent leaves a gap."""
    value: float
    unit: str
    skew: float = 0.0
    """Seconds that the sensor's clock is ahead."""
    copy: bool = False
    """True for the second one of a duplicate."""
    sent: bool = True
    """False in a dropout: taken but never sent."""

    def payload(self, start: float) -> dict[str, Any]:
        """Return the payload to publish; `start` is in seconds since the epoch."""
        stamp = start + self.moment + self.skew
        fields = {"sensor_id": self.sensor_id, "sequence": self.sequence, "value": self.value, "unit": self.unit}
        return {**fields, "timestamp": round(stamp, 3)}


def plan(scenario: Scenario) -> Iterator[SensorReading]:
    """Yield every reading in order; endless if the scenario has no duration."""
    streams = [_sensor(scenario, fleet, index) for fleet in scenario.fleets for index in range(fleet.count)]
    return heapq.merge(*streams, key=lambda reading: reading.moment)


def sensor_id(fleet: SensorFleet, index: int) -> str:
    """Return the identifier of a fleet's sensor."""
    return f"{fleet.name}-{index + 1:03d}"


def _sensor(scenario: Scenario, fleet: SensorFleet, index: int) -> Iterator[SensorReading]:
    """Yield one sensor's readings."""
    name = sensor_id(fleet, index)
    rng = random.Random(f"{scenario.seed} {name}")  # noqa: S311  a simulation, no secret
    model = model_of(fleet.model, fleet.waveform)
    faults = [fault for fault in fleet.faults if rng.random() < fault.sensors]
    signal = Signal(model.waveform, rng, phase=rng.uniform(0, model.waveform.period))
    topic = fill_template(scenario.topic, {"fleet": fleet.name, "sensor_id": name, "model": fleet.model})
    moment, sequence, last = rng.uniform(0, 1 / fleet.rate), 0, None
    while scenario.duration is None or moment < scenario.duration:
        sequence += 1
        active = _active_faults(faults, moment, rng)
        value = _value(signal, model, moment, last, active)
        last = value
        skew = active["clock_skew"].offset if "clock_skew" in active else 0.0
        sent = "dropout" not in active
        reading = SensorReading(moment, name, topic, fleet.qos, sequence, value, model.unit, skew, sent=sent)
        yield reading
        if sent and "duplicates" in active:
            yield SensorReading(moment, name, topic, fleet.qos, sequence, value, model.unit, skew, copy=True)
        moment += 1 / (fleet.rate * (active["burst"].factor if "burst" in active else 1.0))


def _active_faults(faults: list[Fault], moment: float, rng: random.Random) -> dict[str, Fault]:
    """Return the faults that affect this reading, by kind."""
    now = (fault for fault in faults if fault.at <= moment < fault.at + fault.seconds)
    return {fault.kind: fault for fault in now if rng.random() < fault.share}


def _value(signal: Signal, model: Model, moment: float, last: float | None, active: dict[str, Fault]) -> float:
    value = signal.at(moment)
    if "stuck" in active and last is not None:
        return last
    if "outliers" in active:
        value += active["outliers"].factor * max(abs(model.waveform.amplitude), 1e-9)
    return round(value, 4)
