"""The reconnect policy as a table of cases: events in, decisions out."""

from __future__ import annotations

from typing import Any

import pytest

from mqttkit.client.failures import SESSION_TAKEN_OVER, UNSUPPORTED_VERSION
from mqttkit.client.reconnect import (
    EARLY_END_DELAY,
    MQTT_5,
    MQTT_311,
    SHORT_LIFE,
    SHORT_LIVES_TOLERATED,
    Accepted,
    Closed,
    Connect,
    Ended,
    Event,
    Failed,
    GiveUp,
    NoConnack,
    ProbeAnswered,
    ReconnectPolicy,
    Refused,
    Started,
    Stay,
)
from mqttkit.errors import BrokerUnreachable, ConnectionRefused
from mqttkit.settings import BrokerSettings, ClientSettings, MqttSettings, ReconnectSettings

A, B = ("a", 1883), ("b", 1884)
DNS, TCP, TLS = (Failed(BrokerUnreachable("a:1883", step, f"{step} failed")) for step in ("dns", "tcp", "tls"))
UNSUPPORTED = Refused(UNSUPPORTED_VERSION, "Unsupported protocol version")
NOT_AUTHORIZED = Refused(0x87, "Not authorized")
LONG, SHORT = Ended(60.0, 0x80, "Unspecified error"), Ended(0.1, 0x80, "Unspecified error")
TAKEN = Ended(60.0, SESSION_TAKEN_OVER, "Session taken over")


def policy(
    *, hosts: tuple[str, ...] = ("a:1883",), version: str = "auto", client_id: str | None = "x", **options: Any
) -> ReconnectPolicy:
    """Return a policy whose waits are 1, 2, 4, 8, 8 s."""
    settings = MqttSettings(
        broker=BrokerSettings(hosts=hosts),
        client=ClientSettings(version=version, client_id=client_id),
        reconnect=ReconnectSettings(initial_delay=1.0, max_delay=8.0, jitter="jitter" in options),
    )
    made_up = iter(("one", "two", "three"))
    return ReconnectPolicy(settings, make_identifier=lambda: next(made_up), **options)


def shown(decision: object) -> object:
    """Return a decision in short: address and version, delay, `probe`."""
    if isinstance(decision, Connect):
        short = f"{decision.address[0]}{'5' if decision.version == MQTT_5 else '4'}"
        return f"{short} +{decision.delay:g}{' probe' * decision.probe}" if decision.delay else short
    return "stay" if isinstance(decision, Stay) else "give up"


CASES: dict[str, tuple[list[tuple[Event, str]], dict[str, Any]]] = {
    "one host: each wait of the backoff is taken once": (
        [(TCP, "a5 +1 probe"), (TCP, "a5 +2 probe"), (TCP, "a5 +4 probe"), (TCP, "a5 +8 probe"), (TCP, "a5 +8 probe")],
        {},
    ),
    "a failed TLS handshake is not probed: the port accepts TCP": ([(TLS, "a5 +1"), (DNS, "a5 +2 probe")], {}),
    "two hosts: no wait within a round": (
        [(TCP, "b5"), (TCP, "a5 +1 probe"), (TCP, "b5"), (TCP, "a5 +2 probe")],
        {"hosts": ("a:1883", "b:1884")},
    ),
    "a refused version falls back at once": ([(UNSUPPORTED, "a4"), (Accepted(), "stay"), (LONG, "a4 +1 probe")], {}),
    "a closed connection before CONNACK falls back at once": ([(NoConnack(), "a4"), (Accepted(), "stay")], {}),
    "silence costs its wait once: the version is remembered": (
        [(NoConnack(silent=True), "a4"), (Accepted(), "stay"), (LONG, "a4 +1 probe"), (TCP, "a4 +2 probe")],
        {},
    ),
    "silence in both versions: MQTT 5 is tried again": (
        [(NoConnack(silent=True), "a4"), (NoConnack(silent=True), "a5 +1"), (NoConnack(silent=True), "a4")],
        {},
    ),
    "a refusal in MQTT 3.1.1 shows that the broker knows it": (
        [(NoConnack(), "a4"), (NOT_AUTHORIZED, "a4 +1"), (NOT_AUTHORIZED, "a4 +2")],
        {},
    ),
    "each host has its version": (
        [
            (Accepted(), "stay"),
            (LONG, "a5 +1 probe"),
            (TCP, "b5"),
            (NoConnack(), "b4"),
            (Accepted(), "stay"),
            (LONG, "b4 +1 probe"),
            (TCP, "a5"),
            (Accepted(), "stay"),
        ],
        {"hosts": ("a:1883", "b:1884")},
    ),
    "a host that knew MQTT 5 and refuses it now falls back": (
        [(Accepted(), "stay"), (LONG, "a5 +1 probe"), (UNSUPPORTED, "a4"), (Accepted(), "stay")],
        {},
    ),
    "a host that knew MQTT 5 and closes now fails once, then falls back": (
        [(Accepted(), "stay"), (LONG, "a5 +1 probe"), (NoConnack(), "a5 +2"), (NoConnack(), "a4")],
        {},
    ),
    "a host that refuses the 3.1.1 it knew is asked for MQTT 5": (
        [(UNSUPPORTED, "a4"), (Accepted(), "stay"), (LONG, "a4 +1 probe"), (UNSUPPORTED, "a5 +2")],
        {},
    ),
    "a fixed version never falls back": ([(UNSUPPORTED, "a5 +1"), (NoConnack(), "a5 +2")], {"version": "5"}),
    "3.1.1 only": ([(NoConnack(), "a4 +1"), (UNSUPPORTED, "a4 +2")], {"version": "311"}),
    "a port that accepts and closes is tried again soon": (
        [(NoConnack(), f"a4 +{delay}") for delay in (1, 2, 4, 4, 4)] + [(TCP, "a4 +8 probe")],
        {"version": "311"},
    ),
    "a connection that lasted resets the backoff": (
        [(TCP, "a5 +1 probe"), (TCP, "a5 +2 probe"), (Accepted(), "stay"), (LONG, "a5 +1 probe")],
        {},
    ),
    "a short connection does not": (
        [(TCP, "a5 +1 probe"), (Accepted(), "stay"), (SHORT, "a5 +2 probe"), (Accepted(), "stay"), (SHORT, "a5 +4")],
        {},
    ),
    "without retry the first failed round is the end": (
        [(TCP, "b5"), (TCP, "give up")],
        {"hosts": ("a:1883", "b:1884"), "retry": False},
    ),
    "without retry a lost connection is the end": ([(Accepted(), "stay"), (LONG, "give up")], {"retry": False}),
    "an answered probe is tried at once": (
        [(TCP, "b5"), (TCP, "a5 +1 probe"), (ProbeAnswered(B), "b5"), (Accepted(), "stay")],
        {"hosts": ("a:1883", "b:1884")},
    ),
    "the user closes": ([(Accepted(), "stay"), (Closed(), "give up")], {}),
}


@pytest.mark.parametrize("name", CASES)
def test_each_event_leads_to_its_decision(name: str) -> None:
    """The case's name says which behaviour it shows."""
    steps, options = CASES[name]
    under_test = policy(**options)
    first = under_test.decide(Started())
    assert shown(first) == ("a4" if options.get("version") == "311" else "a5")
    assert [shown(under_test.decide(event)) for event, _ in steps] == [wanted for _, wanted in steps]


def test_a_port_that_accepts_and_closes_does_not_cost_the_long_wait() -> None:
    """The broker behind it may return at any time: with 5 s for a mute attempt, that is noticed within 10 s."""
    slow = MqttSettings(
        client=ClientSettings(version="311"), reconnect=ReconnectSettings(initial_delay=60.0, jitter=False)
    )
    under_test = ReconnectPolicy(slow, make_identifier=lambda: "x")
    delays = [decision.delay for _ in range(4) if isinstance(decision := under_test.decide(NoConnack()), Connect)]
    assert delays == [EARLY_END_DELAY] * 4
    assert EARLY_END_DELAY + ClientSettings().connect_timeout < 10


def test_an_answer_that_is_not_connack_is_named() -> None:
    """A port that speaks HTTP, or something else."""
    under_test = policy(version="5")
    under_test.decide(NoConnack(answered="PUBACK in place of CONNACK"))
    assert "it answered CONNECT with PUBACK in place of CONNACK" in str(under_test.failure)


def test_delays_pass_through_the_jitter() -> None:
    """The jitter is injected: it gets the full delay and returns the one to wait."""
    under_test = policy(jitter=lambda delay: delay / 4)
    assert [shown(under_test.decide(TLS)) for _ in range(3)] == ["a5 +0.25", "a5 +0.5", "a5 +1"]


def test_the_failures_of_a_round_are_kept_until_the_next_one_fails() -> None:
    """`connect` reports each host's failure."""
    under_test = policy(hosts=("a:1883", "b:1884"))
    under_test.decide(TCP)
    assert (under_test.rounds_failed, under_test.round_failures) == (0, [TCP.error])
    under_test.decide(NOT_AUTHORIZED)
    assert under_test.rounds_failed == 1
    assert [type(error) for error in under_test.round_failures] == [BrokerUnreachable, ConnectionRefused]
    assert under_test.refused
    under_test.decide(TLS)
    assert under_test.round_failures == [TLS.error]
    assert not under_test.refused


def test_a_connection_clears_the_failure() -> None:
    """`failure` says why the client is not connected."""
    under_test = policy()
    under_test.decide(TCP)
    assert under_test.failure is TCP.error
    under_test.decide(Accepted())
    assert under_test.failure is None


@pytest.mark.parametrize(("end", "said"), [(SHORT, "may be"), (TAKEN, "took over the session")])
def test_a_given_identifier_that_another_client_uses_is_reported_and_tried_again(end: Ended, said: str) -> None:
    """Five connections in a row that ended early, or were taken over: the waits grow, and the failure names it."""
    under_test = policy()
    delays = []
    for _ in range(SHORT_LIVES_TOLERATED + 2):
        under_test.decide(Accepted())
        decision = under_test.decide(end)
        assert isinstance(decision, Connect)
        delays.append(decision.delay)
    assert delays == [1, 2, 4, 8, 8, 8, 8]
    assert isinstance(under_test.failure, ConnectionRefused)
    assert "another client with the client identifier 'x'" in str(under_test.failure)
    assert said in str(under_test.failure)
    assert (under_test.given_up, under_test.client_id) == (False, "x")


@pytest.mark.parametrize(("end", "ends"), [(SHORT, SHORT_LIVES_TOLERATED), (TAKEN, 1)])
def test_an_identifier_that_we_made_up_is_replaced(end: Ended, ends: int) -> None:
    """At once if the broker says that another client took it over."""
    under_test = policy(client_id=None)
    for number in range(2 * ends):
        assert under_test.client_id == ("one" if number < ends else "two")
        under_test.decide(Accepted())
        assert isinstance(under_test.decide(end), Connect)
    assert under_test.client_id == "three"


def test_without_retry_a_connection_that_is_taken_over_is_the_end() -> None:
    """The error says so."""
    under_test = policy(retry=False)
    under_test.decide(Accepted())
    decision = under_test.decide(TAKEN)
    assert isinstance(decision, GiveUp)
    assert "took over the session" in str(decision.error)


@pytest.mark.parametrize("between", [TCP, Ended(SHORT_LIFE, 0x80, "")])
def test_an_unreachable_broker_or_a_longer_connection_is_no_fight(between: Event) -> None:
    """A broker that restarts ends connections early too."""
    under_test = policy()
    for _ in range(3 * SHORT_LIVES_TOLERATED):
        under_test.decide(SHORT)
        assert isinstance(under_test.decide(between), Connect)


def test_a_connection_that_we_ended_is_no_fight() -> None:
    """An unexpected packet ends each connection early, but no other client is involved."""
    under_test = policy()
    for _ in range(3 * SHORT_LIVES_TOLERATED):
        assert isinstance(under_test.decide(Ended(0.1, 0, "unexpected packet", by_us=True)), Connect)
    assert "unexpected packet" in str(under_test.failure)


def test_a_topic_that_ends_each_connection_is_named_when_giving_up() -> None:
    """Not the identifier, but a character that brokers do not take, is the likely cause."""
    under_test = policy()
    decisions = [under_test.decide(Ended(0.1, 0x80, "", "a\x01b")) for _ in range(SHORT_LIVES_TOLERATED)]
    assert isinstance(decisions[-1], GiveUp)
    assert r"'a\x01b' has U+0001" in str(under_test.failure)


def test_a_failure_of_the_thread_itself_is_final() -> None:
    """The error is kept as the reason."""
    under_test, error = policy(), BrokerUnreachable("a:1883", "mqtt", "the network thread failed")
    assert under_test.crashed(error) == GiveUp(error)
    assert (under_test.given_up, under_test.failure) == (True, error)


def test_address_and_version_are_those_of_the_attempt() -> None:
    """While falling back the address stays and the version changes."""
    under_test = policy(hosts=("a:1883", "b:1884"))
    under_test.decide(TCP)
    under_test.decide(NoConnack())
    assert (under_test.address, under_test.version) == (B, MQTT_311)
