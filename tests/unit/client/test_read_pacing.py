"""A fast stream is let gather; a slow one never, and one of QoS 1 for a moment only."""

from __future__ import annotations

from mqttkit.client.receiving.read_pacing import FAST, GATHER, GATHER_AWAITED, WINDOW, ReadPacing


def stream(
    pacing: ReadPacing, rate: float, seconds: float, start: float, *, awaited: bool = False, each: float = 0.001
) -> float:
    """Deliver at a rate, the messages of `each` seconds at a time; return when it ends."""
    now = start
    while now < start + seconds:
        now += each
        pacing.record(round(rate * each), awaited=awaited, now=now)
    return now


def test_only_a_fast_stream_gathers() -> None:
    """Above FAST it does, within two windows; below it stops again, as fast."""
    pacing = ReadPacing()
    assert pacing.pause == 0
    now = stream(pacing, FAST * 2, 2 * WINDOW, 100.0)
    assert pacing.pause == GATHER
    now = stream(pacing, FAST / 2, 2 * WINDOW, now)
    assert pacing.pause == 0
    stream(pacing, FAST / 2, 1.0, now)
    assert pacing.pause == 0


def test_a_burst_after_a_pause_is_not_held_up() -> None:
    """The first delivery after silence counts over the silence."""
    pacing = ReadPacing()
    now = stream(pacing, FAST * 3, 2 * WINDOW, 100.0)
    pacing.record(50, awaited=False, now=now + 5)
    assert pacing.pause == 0


def test_who_waits_for_acknowledgements_is_held_up_for_a_moment_only() -> None:
    """A fast stream of QoS 1 gathers a tenth as long, from its first message among others on."""
    pacing = ReadPacing()
    now = stream(pacing, FAST * 10, 1.0, 100.0, awaited=True)
    assert pacing.pause == GATHER_AWAITED
    now = stream(pacing, FAST * 10, 1.0, now)
    assert pacing.pause == GATHER
    pacing.record(1, awaited=True, now=now)
    assert pacing.pause == GATHER_AWAITED
    stream(pacing, FAST / 2, 2 * WINDOW, now, awaited=True)
    assert pacing.pause == 0


def test_a_broker_that_sends_one_at_a_time_is_never_held_up() -> None:
    """Each message waits for the acknowledgement of the one before: gathering would only slow it down."""
    pacing = ReadPacing()
    stream(pacing, FAST * 2, 1.0, 100.0, awaited=True, each=1 / (FAST * 2))
    assert pacing.pause == 0
