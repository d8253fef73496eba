"""A fast stream is let gather; a slow one, and one that waits for us, never."""

from __future__ import annotations

from mqttkit.wire.moderation import FAST, WINDOW, Moderation


def stream(moderation: Moderation, rate: float, seconds: float, start: float, *, urgent: bool = False) -> float:
    """Deliver at a rate, a millisecond's messages at a time; return when it ends."""
    now = start
    while now < start + seconds:
        now += 0.001
        moderation.note(int(rate / 1000), urgent=urgent, now=now)
    return now


def test_only_a_fast_stream_gathers() -> None:
    """Above FAST it does, within two windows; below it stops again, as fast."""
    moderation = Moderation()
    now = stream(moderation, FAST * 2, 2 * WINDOW, 100.0)
    assert moderation.fast
    now = stream(moderation, FAST / 2, 2 * WINDOW, now)
    assert not moderation.fast
    stream(moderation, FAST / 2, 1.0, now)
    assert not moderation.fast


def test_a_burst_after_a_pause_is_not_held_up() -> None:
    """The first delivery after silence counts over the silence."""
    moderation = Moderation()
    now = stream(moderation, FAST * 3, 2 * WINDOW, 100.0)
    moderation.note(50, urgent=False, now=now + 5)
    assert not moderation.fast


def test_who_waits_for_acknowledgements_is_never_held_up() -> None:
    """QoS 1 at any rate, and the QoS 0 after it begins anew."""
    moderation = Moderation()
    now = stream(moderation, FAST * 10, 1.0, 100.0, urgent=True)
    assert not moderation.fast
    now = stream(moderation, FAST * 10, 1.0, now)
    assert moderation.fast
    moderation.note(1, urgent=True, now=now)
    assert not moderation.fast
