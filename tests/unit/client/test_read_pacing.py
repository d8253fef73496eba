"""A fast stream is let gather; a slow one never, and one of QoS 1 for a moment only."""

from __future__ import annotations

from mqttkit.client.packets.read_pacing import FAST, GATHER, GATHER_AWAITED, WINDOW, Moderation


def stream(
    moderation: Moderation, rate: float, seconds: float, start: float, *, awaited: bool = False, each: float = 0.001
) -> float:
    """Deliver at a rate, the messages of `each` seconds at a time; return when it ends."""
    now = start
    while now < start + seconds:
        now += each
        moderation.note(round(rate * each), awaited=awaited, now=now)
    return now


def test_only_a_fast_stream_gathers() -> None:
    """Above FAST it does, within two windows; below it stops again, as fast."""
    moderation = Moderation()
    assert moderation.pause == 0
    now = stream(moderation, FAST * 2, 2 * WINDOW, 100.0)
    assert moderation.pause == GATHER
    now = stream(moderation, FAST / 2, 2 * WINDOW, now)
    assert moderation.pause == 0
    stream(moderation, FAST / 2, 1.0, now)
    assert moderation.pause == 0


def test_a_burst_after_a_pause_is_not_held_up() -> None:
    """The first delivery after silence counts over the silence."""
    moderation = Moderation()
    now = stream(moderation, FAST * 3, 2 * WINDOW, 100.0)
    moderation.note(50, awaited=False, now=now + 5)
    assert moderation.pause == 0


def test_who_waits_for_acknowledgements_is_held_up_for_a_moment_only() -> None:
    """A fast stream of QoS 1 gathers a tenth as long, from its first message among others on."""
    moderation = Moderation()
    now = stream(moderation, FAST * 10, 1.0, 100.0, awaited=True)
    assert moderation.pause == GATHER_AWAITED
    now = stream(moderation, FAST * 10, 1.0, now)
    assert moderation.pause == GATHER
    moderation.note(1, awaited=True, now=now)
    assert moderation.pause == GATHER_AWAITED
    stream(moderation, FAST / 2, 2 * WINDOW, now, awaited=True)
    assert moderation.pause == 0


def test_a_broker_that_sends_one_at_a_time_is_never_held_up() -> None:
    """Each message waits for the acknowledgement of the one before: gathering would only slow it down."""
    moderation = Moderation()
    stream(moderation, FAST * 2, 1.0, 100.0, awaited=True, each=1 / (FAST * 2))
    assert moderation.pause == 0
