"""A real broker for a test: on free loopback ports, with users, rules and TLS if requested."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mqttkit.broker.accounts.acl import Access
from mqttkit.broker.accounts.roles import AccountFiles
from mqttkit.broker.lifecycle import run_temporary
from mqttkit.broker.live.accounts import change_accounts
from mqttkit.broker.ports import free_port
from mqttkit.broker.profile import Profile
from mqttkit.broker.protocol import Broker
from mqttkit.client.connecting import Client
from mqttkit.errors import UsageError
from mqttkit.settings import MqttSettings

LOG_TYPES = ("debug", "subscribe", "unsubscribe")
ITERATIONS = 100
"""PBKDF2 iterations for the passwords of tests: they protect nothing."""


@dataclass(frozen=True, kw_only=True)
class BrokerOptions:
    """What a test's broker must have."""

    backend: str = "auto"
    """`auto`, `docker`, `process` or `embedded`."""
    users: Mapping[str, str] = field(default_factory=dict)
    """Passwords by user name. With users, clients without a user are refused."""
    acl: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Rules by user name: `read a/#`, `write b`, `readwrite c/+`. A user without rules may use every topic."""
    tls: bool = False
    """The broker also listens with TLS, on a separate port."""


class TestBroker:
    """A running broker. `url`, `host` and `port` are those of its plain listener."""

    __test__ = False  # pytest must not collect it

    def __init__(self, broker: Broker, profile: Profile, options: BrokerOptions) -> None:
        self._broker = broker
        self._profile = profile
        self._options = options
        self.host = profile.host
        self.port = profile.port
        self.url = f"mqtt://{profile.host}:{profile.port}"
        self.tls_port = profile.tls_port
        """Port of the TLS listener; None without `tls`."""
        self.ca_file = profile.ca_file
        """PEM file of the authority that signed the broker's certificate; None without `tls`."""

    @property
    def log(self) -> str:
        """What the broker logged so far: connections, subscriptions, each packet; empty for the embedded one."""
        return "\n".join(self._broker.log_lines())

    def settings(self, user: str | None = None, *, tls: bool = False) -> MqttSettings:
        """Return the settings of a client: of one of the broker's users, or of the operator, who may do everything."""
        broker = self._profile.to_tls_settings() if tls else self._profile.to_broker_settings()
        if user is not None:
            if user not in self._options.users:
                names = ", ".join(self._options.users) or "none"
                raise UsageError(f"this broker has no user {user!r}", hint=f"Its users: {names}")
            broker = replace(broker, username=user, password=self._options.users[user])
        return replace(self._profile.settings, broker=broker)

    def connect(self, user: str | None = None, *, tls: bool = False) -> Client:
        """Return a client that connects when its `with` block begins."""
        return Client(self.settings(user, tls=tls))


@contextlib.contextmanager
def run_broker(options: BrokerOptions) -> Iterator[TestBroker]:
    """Run a broker until the block ends, and leave nothing behind.

    Without users anyone may connect. Raises MissingPart if no broker can run here, UsageError if the chosen one lacks
    a feature.
    """
    anonymous = not (options.users or options.acl)
    ports: dict[str, Any] = {"tls_port": free_port(), "automatic_ports": ("tls_port",)} if options.tls else {}
    backend = "process" if options.backend == "auto" and (options.tls or not anonymous) else options.backend
    with run_temporary(backend=backend, anonymous=anonymous, log_types=LOG_TYPES, **ports) as (
        broker,
        profile,
    ):
        if not anonymous:
            change_accounts(broker, lambda files: _with_users(files, options))
        yield TestBroker(broker, profile, options)


def _with_users(files: AccountFiles, options: BrokerOptions) -> AccountFiles:
    for user in options.acl:
        if user not in options.users:
            raise UsageError(f"acl names the user {user!r}, who is not in users")
    for user, password in options.users.items():
        files = files.add(user, password, iterations=ITERATIONS)
        for rule in options.acl.get(user, ("readwrite #",)):
            word, _, topic = rule.partition(" ")
            try:
                access = Access(word)
            except ValueError:
                words = ", ".join(each.value for each in Access)
                raise UsageError(f"{rule!r} is not a rule", hint=f"ACCESS TOPIC, with one of: {words}") from None
            files = files.grant(user, access, topic)
    return files
