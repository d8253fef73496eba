"""Scenarios: the same seed, the same readings; faults do what their names say."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqttkit.errors import ConfigError, TopicError, UsageError
from mqttkit.nodes import MODELS, Aggregate, Fault, Scenario, SensorFleet, SensorReading, Waveform, plan
from mqttkit.nodes.scenario_file import load_scenario
from mqttkit.nodes.waveforms import KINDS, Signal, model_of

FLAT = Waveform(kind="constant", mean=7.0)


def readings(*faults: Fault, **changes: object) -> list[SensorReading]:
    """Ten seconds of one fleet."""
    fields = {"name": "a", "count": 2, "rate": 10.0, "waveform": FLAT, "faults": faults, **changes}
    fleet = SensorFleet(**fields)  # type: ignore[arg-type]
    return list(plan(Scenario(duration=10.0, fleets=(fleet,))))


@settings(deadline=None, max_examples=50)
@given(st.integers(), st.sampled_from(sorted(MODELS)))
def test_the_same_seed_gives_the_same_readings(seed: int, model: str) -> None:
    """And another seed others."""
    scenario = Scenario(seed=seed, duration=20.0, fleets=(SensorFleet(count=3, model=model, rate=2.0),))
    first, again = list(plan(scenario)), list(plan(scenario))
    assert first == again
    assert first != list(plan(replace(scenario, seed=seed + 1)))
    moments = [reading.moment for reading in first]
    assert moments == sorted(moments)
    assert all(math.isfinite(reading.value) for reading in first)


def test_rate_count_and_sequence_are_as_asked() -> None:
    """Ten a second for ten seconds, each sensor counting from 1 without a gap."""
    found = readings()
    assert {reading.sensor_id for reading in found} == {"a-001", "a-002"}
    for name in ("a-001", "a-002"):
        own = [reading for reading in found if reading.sensor_id == name]
        assert 99 <= len(own) <= 101
        assert [reading.sequence for reading in own] == list(range(1, len(own) + 1))
    assert found[0].topic in ("sensor/a-001/temperature", "sensor/a-002/temperature")


def test_a_scenario_without_an_end_goes_on() -> None:
    """Until it is stopped."""
    endless = plan(Scenario(fleets=(SensorFleet(rate=1000.0),)))
    assert len(list(itertools.islice(endless, 5_000))) == 5_000


def test_a_dropout_takes_readings_and_sends_none() -> None:
    """From 2 s to 5 s; the sequence goes on, so the gap shows."""
    found = readings(Fault(kind="dropout", at=2.0, seconds=3.0))
    for reading in found:
        assert reading.sent == (not 2.0 <= reading.moment < 5.0)


def test_a_fault_strikes_its_share() -> None:
    """Of the sensors and of the readings."""
    found = readings(Fault(kind="dropout", sensors=0.5), count=40, rate=1.0)
    active = {reading.sensor_id for reading in found if not reading.sent}
    assert 8 <= len(active) <= 32
    assert not any(reading.sent for reading in found if reading.sensor_id in active)
    some = readings(Fault(kind="dropout", share=0.3), rate=100.0)
    assert 0.2 < sum(not reading.sent for reading in some) / len(some) < 0.4


def test_a_burst_multiplies_the_rate() -> None:
    """For a second."""
    found = readings(Fault(kind="burst", at=3.0, seconds=1.0, factor=20.0), count=1)
    assert 170 <= sum(3.0 <= reading.moment < 4.0 for reading in found) <= 220
    assert 9 <= sum(6.0 <= reading.moment < 7.0 for reading in found) <= 11


def test_a_skewed_clock_shows_in_the_timestamp_alone() -> None:
    """Ahead by its offset, or behind."""
    found = readings(Fault(kind="clock_skew", offset=-120.0))
    assert all(reading.payload(1_000.0)["timestamp"] == round(880.0 + reading.moment, 3) for reading in found)


def test_duplicates_come_twice_with_one_sequence() -> None:
    """The copy right after the first."""
    found = readings(Fault(kind="duplicates"), count=1)
    assert [reading.copy for reading in found] == [False, True] * (len(found) // 2)
    assert all(a.payload(0.0) == b.payload(0.0) for a, b in zip(found[::2], found[1::2], strict=True))


def test_a_stuck_sensor_repeats_and_an_outlier_stands_out() -> None:
    """Values, not timing."""
    moving = Waveform(kind="sine", amplitude=5.0, period=3.0)
    stuck = readings(Fault(kind="stuck", at=2.0), count=1, waveform=moving)
    assert len({reading.value for reading in stuck if reading.moment > 2.1}) == 1
    wild = readings(Fault(kind="outliers", factor=10.0), count=1)
    assert {reading.value for reading in wild} == {17.0}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_waveform_stays_in_its_range(kind: str) -> None:
    """Around its mean by its amplitude; counters grow."""
    waveform = Waveform(kind=kind, mean=50.0, amplitude=5.0, period=7.0)
    signal = Signal(waveform, random.Random(1), phase=2.0)
    values = [signal.at(step / 10) for step in range(700)]
    if kind == "counter":
        assert values == [50.0 + 5.0 * step for step in range(700)]
    elif kind == "walk":
        assert max(abs(b - a) for a, b in itertools.pairwise(values)) < 10.0
        assert all(abs(value - 50.0) < 200.0 for value in values)
    else:
        assert min(values) >= 45.0 and max(values) <= 55.0
        assert kind == "constant" or len(set(values)) > 1


@pytest.mark.parametrize(("build", "message"), [
    (lambda: Waveform(kind="x"), "waveform kind must be one of constant"),
    (lambda: Waveform(period=0.0), "period must be more than 0"),
    (lambda: Waveform(noise=-1.0), "noise 0 or more"),
    (lambda: Fault(kind="x"), "fault kind must be one of dropout"),
    (lambda: Fault(kind="burst", share=2.0), "share and sensors are 0 to 1"),
    (lambda: Fault(kind="burst", seconds=0.0), "seconds and factor more than 0"),
    (lambda: SensorFleet(count=0), "count is 1 to 100000"),
    (lambda: SensorFleet(rate=0.0), "rate more than 0"),
    (lambda: SensorFleet(qos=3), "qos must be 0 to 2"),
    (Scenario, "needs at least one fleet"),
    (lambda: Scenario(fleets=(SensorFleet(), SensorFleet())), "needs a different name"),
    (lambda: Scenario(fleets=(SensorFleet(),), duration=0.0), "duration is more than 0"),
])  # fmt: skip
def test_values_that_make_no_sense_are_refused(build: object, message: str) -> None:
    """With the field named."""
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


def test_unknown_models_and_bad_names_are_errors_of_the_user() -> None:
    """With what there is."""
    with pytest.raises(UsageError, match="model must be one of temperature"):
        model_of("taste")
    with pytest.raises(TopicError, match="fleet name 'a/b'"):
        SensorFleet(name="a/b")
    with pytest.raises(TopicError, match="unknown placeholder"):
        Scenario(fleets=(SensorFleet(),), topic="a/{x}")


GOOD = """
seed: 42
duration: 30
fleets:
  - name: boiler
    count: 10
    rate: 5
    waveform: {kind: sine, mean: 60, amplitude: 5, period: 30}
    faults:
      - {kind: dropout, at: 5, seconds: 3, sensors: 0.5}
"""


def test_a_scenario_file_is_what_it_says(tmp_path: Path) -> None:
    """Fleets, waveforms, faults."""
    path = tmp_path / "s.yaml"
    path.write_text(GOOD)
    found = load_scenario(str(path), {})
    assert (found.seed, found.duration, found.sensors()[-1]) == (42, 30.0, "boiler-010")
    assert found.fleets[0].waveform == Waveform(kind="sine", mean=60.0, amplitude=5.0, period=30.0)
    assert found.fleets[0].faults == (Fault(kind="dropout", at=5.0, seconds=3.0, sensors=0.5),)


@pytest.mark.parametrize(("change", "message"), [
    (("rate: 5", "rate: fast"), "s.yaml:7: must be a number, got 'fast'"),
    (("rate: 5", "rte: 5"), "s.yaml:7: unknown key 'rte'. There are name, count, rate"),
    (("kind: sine", "kind: sinus"), "s.yaml:8: waveform kind must be one of"),
    (("kind: dropout", "kind: nap"), "s.yaml:10: fault kind must be one of"),
    (("{kind: dropout, ", "{"), "s.yaml:10: needs kind"),
    (("name: boiler", "name: a/b"), "s.yaml: fleet name 'a/b' has '/'"),
    (("fleets:", "fleet:"), "s.yaml:4: unknown key 'fleet'. There are seed, duration, topic, fleets"),
    (("seed: 42", "seed: [1]"), "s.yaml:2: must be a whole number"),
    (("seed: 42", "seed: 42\nseed: 43"), "s.yaml:3: 'seed' is already set in line 2"),
])  # fmt: skip
def test_an_error_in_a_scenario_names_file_and_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    """As in mqttkit.yaml."""
    path = tmp_path / "s.yaml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(ConfigError) as caught:
        load_scenario(str(path), {})
    assert message in str(caught.value)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_an_aggregate_counts_each_sequence_once(sequences: list[int]) -> None:
    """Whatever order they come in: seen, missing and duplicate add up."""
    aggregate = Aggregate("a")
    first = sequences[0]
    late = [number for number in sequences if number < first]
    for number in sequences:
        aggregate.add(number, float(number), "x")
    kept = set(sequences) - set(late)
    assert aggregate.count == len(kept)
    assert aggregate.missing == max(kept) - min(kept) + 1 - len(kept)
    assert aggregate.count + aggregate.duplicates == len(sequences)
    assert aggregate.mean == pytest.approx(sum(kept) / len(kept))


def test_an_aggregates_memory_is_bounded_whatever_is_missing() -> None:
    """The newest gaps may still be filled; what is missing stays counted."""
    aggregate = Aggregate("a")
    for number in range(0, 2**40, 2**35):
        aggregate.add(number, 1.0, "x")
    last = aggregate.last_sequence
    assert aggregate.missing == last + 1 - aggregate.count
    assert len(aggregate._gaps) <= 20_000
    assert aggregate.add(last - 1, 1.0, "x")
    assert not aggregate.add(1, 1.0, "x")
