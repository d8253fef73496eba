"""When and where to connect again: events in, decisions out. Pure: no clock, no socket, randomness passed in.

    policy = ReconnectPolicy(settings, client_id=client_id)
    decision = policy.decide(Started())
    # Connect(address, version, delay): wait, then connect; report how that went:
    decision = policy.decide(Failed(error))
    # GiveUp(error): stop.

A round tries each address once. Waits are between rounds, never within one.

Events and decisions are named tuples: each dataclass would delay the start of every command by half a millisecond.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mqttkit.client import failures
from mqttkit.errors import BrokerUnreachable, ConnectionRefused, MqttkitError
from mqttkit.settings import MqttSettings, ReconnectSettings

PROBE_INTERVAL = 5.0
"""Seconds between TCP probes while waiting for an unreachable broker."""
EARLY_END_DELAY = 4.0
"""Longest wait, seconds, after a connection that ended before the CONNACK, or got none. A port that Docker or a proxy
publishes accepts connections before the broker behind it listens: it cannot be probed."""
SHORT_LIFE = 5.0
"""A connection that ends within this many seconds does not reset the wait."""
SHORT_LIVES_TOLERATED = 5
"""After this many in a row, with the broker reachable throughout, two clients share one identifier."""

Address = tuple[str, int]
MQTT_5, MQTT_311 = 5, 4
"""Protocol versions, as CONNECT has them (MQTT 5, 3.1.2.2)."""


class Started(NamedTuple):
    """The client was started."""


class Failed(NamedTuple):
    """The address could not be reached; `error.step` says which step failed."""

    error: BrokerUnreachable


class NoConnack(NamedTuple):
    """The connection ended before the CONNACK."""

    silent: bool = False
    """The broker did not answer in time; otherwise it closed the connection."""
    answered: str = ""
    """What it sent in place of a CONNACK."""


class Refused(NamedTuple):
    """The CONNACK refused the connection."""

    code: int
    """Reason code of MQTT 5, or return code of MQTT 3.1.1."""
    reason: str


class Accepted(NamedTuple):
    """The CONNACK accepted the connection."""


class Ended(NamedTuple):
    """An accepted connection ended."""

    seconds: float
    """How long it lasted."""
    code: int
    """Reason code of DISCONNECT, or 0x80 if there was none."""
    reason: str
    topic: str = ""
    """A topic sent shortly before, with a character over which brokers close the connection."""
    by_us: bool = False
    """We ended it because of an unexpected packet: it says nothing about other clients."""


class ProbeAnswered(NamedTuple):
    """During a wait, an address accepted a TCP connection."""

    address: Address


class Closed(NamedTuple):
    """The user closed the client."""


Event = Started | Failed | NoConnack | Refused | Accepted | Ended | ProbeAnswered | Closed


class Connect(NamedTuple):
    """Wait `delay` seconds, then connect."""

    address: Address
    version: int
    """MQTT_5 or MQTT_311."""
    delay: float = 0.0
    probe: bool = False
    """Probe the addresses during the wait: one that accepts ends it."""


class Stay(NamedTuple):
    """Nothing to do: the connection is up."""


class GiveUp(NamedTuple):
    """Do not connect again; `error` is None if the user closed the client."""

    error: MqttkitError | None


Decision = Connect | Stay | GiveUp


def full_jitter(delay: float) -> float:
    """Return a random delay up to `delay`, so that many clients do not return at the same moment."""
    import random

    return random.uniform(0, delay)  # noqa: S311  # spreads load, hides nothing


class ReconnectPolicy:
    """Decides what follows each event. Use it in one thread; others may read its attributes."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        make_identifier: Callable[[], str],
        will_topic: str = "",
        retry: bool = True,
        jitter: Callable[[float], float] = full_jitter,
    ) -> None:
        self.failure: MqttkitError | None = None
        """Why the client is not connected; None while it is, and before the first failure."""
        self.round_failures: list[MqttkitError] = []
        """Why each address failed in the last round; `failure` is the last."""
        self.rounds_failed = 0
        self.given_up = False
        self.addresses: tuple[Address, ...] = settings.broker.addresses()
        self._settings = settings
        self._make_identifier = make_identifier
        self.client_id = settings.client.client_id or make_identifier()
        """The client identifier for the next connection: the given one, or one that we made up."""
        self._connect_texts = (self.client_id, settings.broker.username or "", will_topic)
        self._retry = retry
        self._backoff = Backoff(settings.reconnect, jitter)
        self._index = 0
        self._versions: dict[Address, int] = {}
        self._attempt = Connect(self.addresses[0], self._version_for(self.addresses[0]))
        self._failed_in_round = 0
        self._short_lives, self._ended_early = 0, False

    @property
    def address(self) -> Address:
        """The address of the current or the latest attempt."""
        return self._attempt.address

    @property
    def version(self) -> int:
        """The protocol version of the current or the latest attempt."""
        return self._attempt.version

    def decide(self, event: Event) -> Decision:
        """Return what to do after `event`."""
        match event:
            case Started():
                return self._connect()
            case Accepted():
                return self._accepted()
            case Failed(error):
                self._short_lives, self._ended_early = 0, False
                return self._address_failed(error, probe=error.step in ("dns", "tcp"))
            case Refused(code, reason):
                return self._refused(code, reason)
            case NoConnack():
                return self._no_connack(event)
            case Ended():
                return self._ended(event)
            case ProbeAnswered(address):
                self._index = self.addresses.index(address)
                return self._connect()
            case Closed():
                return GiveUp(None)

    def crashed(self, error: MqttkitError) -> GiveUp:
        """Give up because the network thread itself failed."""
        self.failure = error
        return self._give_up()

    def _version_for(self, address: Address) -> int:
        """Return the version to try at an address: the configured one, else the one it accepted, else MQTT 5."""
        fixed = {"5": MQTT_5, "311": MQTT_311}.get(self._settings.client.version)
        return fixed or self._versions.get(address, MQTT_5)

    def _connect(self, *, delay: float = 0.0, probe: bool = False) -> Connect:
        address = self.addresses[self._index]
        self._attempt = Connect(address, self._version_for(address), delay, probe)
        return self._attempt

    def _can_fall_back(self) -> bool:
        return self._settings.client.version == "auto" and self._attempt.version == MQTT_5

    def _fall_back(self) -> Connect:
        """Try MQTT 3.1.1 at the same address, without a wait."""
        self._attempt = self._attempt._replace(version=MQTT_311, delay=0.0, probe=False)
        return self._attempt

    def _accepted(self) -> Stay:
        self._versions[self.address] = self.version
        self._failed_in_round, self._ended_early = 0, False
        self.failure = None
        return Stay()

    def _refused(self, code: int, reason: str) -> Decision:
        error = failures.refused(self.address, code, reason)
        if error.code != failures.UNSUPPORTED_VERSION:
            self._versions[self.address] = self.version
        elif self._can_fall_back():
            self._versions[self.address] = MQTT_311
            return self._fall_back()
        else:
            self._versions.pop(self.address, None)
        return self._address_failed(error)

    def _no_connack(self, event: NoConnack) -> Decision:
        """Fall back if the address may not know MQTT 5; some brokers close the connection or never answer."""
        if self._can_fall_back() and self.address not in self._versions:
            return self._fall_back()
        if self._versions.get(self.address) == MQTT_5:
            del self._versions[self.address]  # another broker may have taken its place
        self._ended_early = True
        cause = "it did not answer CONNECT" if event.silent else "it closed the connection before the CONNACK"
        if event.answered:
            cause = f"it answered CONNECT with {event.answered}"
        tls = self._settings.broker.tls is not None
        return self._address_failed(failures.closed_early(self.address, cause, tls=tls, texts=self._connect_texts))

    def _address_failed(self, error: MqttkitError, *, probe: bool = False) -> Decision:
        """Go on to the next address; after the last one, wait for the next round."""
        self.failure = error
        self.round_failures = [*(self.round_failures if self._failed_in_round else ()), error]
        self._failed_in_round += 1
        self._index = (self._index + 1) % len(self.addresses)
        if self._failed_in_round < len(self.addresses):
            return self._connect()
        return self._next_round(probe=probe)

    def _ended(self, event: Ended) -> Decision:
        """Go back to the address that was lost; give up only if one of our topics ends each connection.

        If another client takes our place again and again, the waits grow.
        """
        taken_over = event.code == failures.SESSION_TAKEN_OVER
        if event.seconds >= SHORT_LIFE and not taken_over:
            self._backoff.reset()
            self._short_lives = 0
        elif not event.by_us:
            self._short_lives += 1
        hint = failures.discouraged_hint(event.topic)
        fight = self._short_lives >= SHORT_LIVES_TOLERATED
        if taken_over or (fight and not hint):
            self.failure = failures.taken_over(self.address, self.client_id, certain=taken_over)
            self._replace_identifier()
        else:
            self.failure = failures.lost(self.address, event.reason, hint=hint)
        self.round_failures = [self.failure]
        return self._give_up() if fight and hint else self._next_round(probe=self._short_lives < 2)

    def _replace_identifier(self) -> None:
        """Use another client identifier if we made up this one; a given one is the user's to change."""
        if not self._settings.client.client_id:
            self.client_id = self._make_identifier()
            self._short_lives = 0

    def _next_round(self, *, probe: bool) -> Decision:
        self._failed_in_round = 0
        self.rounds_failed += 1
        if not self._retry:
            return self._give_up()
        delay = self._backoff.next()
        if self._ended_early:
            delay = min(delay, EARLY_END_DELAY)
        return self._connect(delay=delay, probe=probe)

    def _give_up(self) -> GiveUp:
        self.given_up = True
        return GiveUp(self.failure)

    @property
    def refused(self) -> bool:
        """True if the latest failure is a refusal, not an unreachable broker."""
        return isinstance(self.failure, ConnectionRefused)


class Backoff:
    """Delays between rounds, in seconds: the initial delay, doubled up to the maximum, with jitter if set."""

    def __init__(self, settings: ReconnectSettings, jitter: Callable[[float], float]) -> None:
        self._settings = settings
        self._jitter = jitter
        self._rounds = 0

    def next(self) -> float:
        """Return the next delay."""
        settings = self._settings
        doublings = min(self._rounds, 32) if settings.exponential_backoff else 0
        self._rounds += 1
        delay = min(settings.initial_delay * 2**doublings, settings.max_delay)
        return self._jitter(delay) if settings.jitter else delay

    def reset(self) -> None:
        """Start again at the initial delay."""
        self._rounds = 0
