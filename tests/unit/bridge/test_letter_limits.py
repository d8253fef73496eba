"""Bounds for dead letters: lines in the log, and letters of one tenant."""

from __future__ import annotations

import logging

import pytest

from mqttkit.bridge.flow.letter_limits import MAX_TENANTS, LetterLog, LetterQuota
from mqttkit.bridge.metric import MetricRefusal
from mqttkit.bridge.sinks.types import DeadLetter, dead_letter
from mqttkit.messages import Message
from mqttkit.settings import BridgeSettings

A, B = (f"6f1d7c1e-0000-4000-8000-00000000000{n}" for n in "ab")


def letters(count: int, tenant: str = A, reason: MetricRefusal = MetricRefusal.JSON_SYNTAX) -> list[DeadLetter]:
    return [dead_letter(Message(f"metrics/{tenant}/a/t", b"secret"), reason, "secret", 1)] * count


def test_letters_are_logged_at_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    """Five lines a second, and how many there were in between; never the payload."""
    caplog.set_level(logging.INFO)
    now = [100.0]
    log = LetterLog(lambda: now[0])
    for _ in range(3):
        log.add(letters(3))
    assert caplog.text.count(f"dead letter: json_syntax, 6 bytes on 'metrics/{A}/a/t'") == 5
    now[0] += 1
    log.add([])
    log.add(letters(1))
    assert "4 more dead letters" in caplog.text
    assert caplog.text.count("dead letter: ") == 6
    assert "secret" not in caplog.text


def test_letters_above_the_quota_are_kept_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The bridge has acknowledged their messages, and loses none."""
    quota = LetterQuota(10, BridgeSettings.topic)
    assert len(quota.admit(letters(25))) == 25
    assert quota.dropped == 0
    assert caplog.text.count(f"tenant {A}: more than 10 dead letters today; further ones are stored") == 1


def test_one_tenant_cannot_fill_the_store(caplog: pytest.LogCaptureFixture) -> None:
    """On request its letters above the quota are dropped and counted; other tenants have their own, or share one."""
    now = [0.0]
    quota = LetterQuota(10, BridgeSettings.topic, drop=True, clock=lambda: now[0])
    assert len(quota.admit(letters(8))) == 8
    assert len(quota.admit(letters(8, A.upper()))) == 2
    assert len(quota.admit(letters(3, B))) == 3
    assert len(quota.admit(letters(7, "x", MetricRefusal.TENANT_FORMAT))) == 7
    assert len(quota.admit(letters(7, B, MetricRefusal.TENANT_UNKNOWN))) == 3
    assert quota.dropped == 6 + 4
    assert caplog.text.count("are counted, not stored") == 2
    assert f"tenant {A}" in caplog.text
    now[0] += 86_400
    assert len(quota.admit(letters(8))) == 8


def test_quota_of_zero_is_no_limit_and_memory_is_bounded() -> None:
    """The tenant that was silent longest is forgotten."""
    assert len(LetterQuota(0, BridgeSettings.topic).admit(letters(50))) == 50
    quota = LetterQuota(1, BridgeSettings.topic, drop=True)
    for number in range(MAX_TENANTS + 5):
        quota.admit(letters(1, f"t{number}"))
    assert len(quota._used) == MAX_TENANTS
    assert quota.admit(letters(1, "t0"))
    assert not quota.admit(letters(1, f"t{MAX_TENANTS}"))


def test_each_sparkplug_group_has_its_own_quota() -> None:
    """Also if the tenant is at another level of the bridge's own topics."""
    quota = LetterQuota(1, "{metric_name}/{agent_id}/{tenant_id}", drop=True)
    sent = [
        dead_letter(Message(f"spBv1.0/{group}/NDATA/edge"), MetricRefusal.SPARKPLUG_ALIAS, "", 1) for group in (A, B, A)
    ]
    assert quota.admit(sent) == sent[:2]
