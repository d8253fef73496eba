"""What simulated sensors measure: pure functions of time and of a seeded source of rng."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mqttkit.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """How a value changes over time."""

    kind: str = "sine"
    """`constant`, `sine`, `square`, `sawtooth`, `walk`, `counter` or `pulses`."""
    mean: float = 0.0
    """The centre of the values; the first value of `counter`."""
    amplitude: float = 1.0
    """Distance from the mean; step of `walk` and `counter`, height of `pulses`."""
    period: float = 60.0
    """Seconds of one period; mean seconds between `pulses`."""
    noise: float = 0.0
    """Standard deviation of the noise added to each reading."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"waveform kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.period <= 0 or self.noise < 0:
            raise ValueError("a waveform's period must be more than 0, its noise 0 or more")


@dataclass
class Signal:
    """The running waveform of one sensor."""

    waveform: Waveform
    rng: random.Random
    phase: float = 0.0
    """Seconds that this sensor is ahead of others with the same waveform."""
    _last: float = field(default=math.nan)

    def at(self, moment: float) -> float:
        """Return the reading `moment` seconds after the start; call with increasing moments."""
        value = KINDS[self.waveform.kind](self, moment + self.phase)
        if self.waveform.noise:
            value += self.rng.gauss(0.0, self.waveform.noise)
        return round(value, 4)

    def turn(self, moment: float) -> float:
        """Return the elapsed part of the current period, 0 to 1."""
        return moment / self.waveform.period % 1.0

    def add(self, step: float) -> float:
        """Add to the last value, and return it."""
        self._last = self.waveform.mean if math.isnan(self._last) else self._last + step
        return self._last


def _constant(signal: Signal, _moment: float) -> float:
    return signal.waveform.mean


def _sine(signal: Signal, moment: float) -> float:
    return signal.waveform.mean + signal.waveform.amplitude * math.sin(2 * math.pi * signal.turn(moment))


def _square(signal: Signal, moment: float) -> float:
    return signal.waveform.mean + signal.waveform.amplitude * (1 if signal.turn(moment) < 0.5 else -1)


def _sawtooth(signal: Signal, moment: float) -> float:
    return signal.waveform.mean + signal.waveform.amplitude * (2 * signal.turn(moment) - 1)


def _walk(signal: Signal, _moment: float) -> float:
    step = signal.waveform.amplitude * signal.rng.uniform(-1, 1)
    pull = 0.0 if math.isnan(signal._last) else 0.02 * (signal.waveform.mean - signal._last)
    return signal.add(step + pull)


def _counter(signal: Signal, _moment: float) -> float:
    return signal.add(signal.waveform.amplitude)


def _pulses(signal: Signal, moment: float) -> float:
    """Return the mean, with one pulse per period that lasts a tenth of it."""
    turn, part = divmod(moment, signal.waveform.period)
    begin = random.Random(f"{signal.phase} {turn}").uniform(0, 0.9)  # noqa: S311  a simulation, no secret
    high = begin <= part / signal.waveform.period < begin + 0.1
    return signal.waveform.mean + (signal.waveform.amplitude if high else 0.0)


KINDS: dict[str, Callable[[Signal, float], float]] = {
    "constant": _constant,
    "sine": _sine,
    "square": _square,
    "sawtooth": _sawtooth,
    "walk": _walk,
    "counter": _counter,
    "pulses": _pulses,
}


@dataclass(frozen=True)
class Model:
    """A kind of sensor."""

    unit: str
    waveform: Waveform


MODELS: dict[str, Model] = {
    "temperature": Model("°C", Waveform(kind="sine", mean=21.0, amplitude=4.0, period=600.0, noise=0.1)),
    "humidity": Model("%", Waveform(kind="walk", mean=45.0, amplitude=0.5, noise=0.1)),
    "pressure": Model("hPa", Waveform(kind="walk", mean=1013.0, amplitude=0.2)),
    "vibration": Model("mm/s", Waveform(kind="pulses", mean=0.8, amplitude=6.0, period=20.0, noise=0.2)),
    "power": Model("W", Waveform(kind="square", mean=900.0, amplitude=600.0, period=120.0, noise=15.0)),
    "level": Model("%", Waveform(kind="sawtooth", mean=50.0, amplitude=50.0, period=300.0)),
    "energy": Model("Wh", Waveform(kind="counter", mean=0.0, amplitude=0.25)),
    "door": Model("", Waveform(kind="pulses", mean=0.0, amplitude=1.0, period=90.0)),
}


def model_of(name: str, waveform: Waveform | None = None) -> Model:
    """Return a model by name, with its waveform replaced if one is given; raise UsageError."""
    if name not in MODELS:
        raise UsageError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    return MODELS[name] if waveform is None else replace(MODELS[name], waveform=waveform)
