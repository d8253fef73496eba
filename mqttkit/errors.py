"""The error tree. Every error that a user can meet is one of these.

    MqttkitError                    1   failed in a way no other code names
    ├── UsageError                  2   wrong usage: an option, an argument, a file's content
    │   ├── ConfigError             2   mqttkit.yaml or the environment, with file and line
    │   └── TopicError              2   a topic name, topic filter or topic template
    ├── BrokerUnreachable           3   DNS, TCP, TLS, WebSocket or MQTT handshake did not complete
    ├── ConnectionRefused           4   the broker answered CONNECT with a refusal
    ├── SubscriptionDenied          5   the broker's SUBACK denies a topic filter
    ├── PublishFailed               6   a publish was denied, dropped or not acknowledged
    ├── MissingPart                 7   an engine, a program or an extra is not installed
    │   ├── AdapterMissing          7   no Bluetooth adapter
    │   ├── PermissionMissing       7   the right to use something is missing
    │   └── HelperMissing           7   bluepy's helper program is missing or cannot run
    ├── SourceError                 1   a source of advertisements failed
    │   ├── AdapterStuck            1   the Bluetooth adapter does not answer
    │   └── RecordingError          2   a recording cannot be read
    ├── AdvertisementError          1   bytes that are no advertisement
    ├── LifecycleError              1   a broker did not start, stop or answer as it should
    │   └── PortTaken               1   another process listens on the port
    ├── BridgeError                 1   the bridge cannot hand metrics on
    │   ├── SinkUnavailable         1   the sink cannot commit now; what waits is tried again
    │   │   └── DeadLettersFull     1   the dead-letter store has reached its limit
    │   ├── SinkRefused             1   the sink takes no such batch, however often it is tried
    │   ├── SinkBroken              1   the sink is damaged: a human must look
    │   └── RegistryUnavailable     1   the registry of tenants cannot be asked now
    ├── StoreFailed                 1   a controller's memory cannot be read or written now
    ├── BenchmarkFailed             1   a --fail-if or a baseline found fault with a bench
    ├── TimedOut                   27   -W ran out before -C messages came
    └── Interrupted               130   interrupted before it was done

An error says what failed, where, the likely cause; its hint is the next command to type.
"""

from __future__ import annotations


class MqttkitError(Exception):
    """Root of the tree.

    `hint` is the next step for the reader, a sentence or a command, or an empty string.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class UsageError(MqttkitError):
    """An option, an argument or a file's content cannot work."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting has a value that cannot work.

    `problem` says why, `where` is `file:line`, an environment variable, a flag, or class and field, and `field` is the
    name of the field if a settings object found the error.
    """

    def __init__(self, problem: str, *, where: str = "", field: str = "", got: str = "", hint: str = "") -> None:
        place = f"{where}: " if where else ""
        super().__init__(f"{place}{problem}{', got ' if got else ''}{got}", hint=hint)
        self.problem = problem
        self.where = where
        self.field = field


class TopicError(UsageError):
    """A topic name, topic filter or topic template is malformed (MQTT 5, 4.7)."""


class BrokerUnreachable(MqttkitError):
    """No MQTT connection came about: `step` is `dns`, `tcp`, `tls`, `websocket` or `mqtt`."""

    exit_code = 3

    def __init__(
        self, address: str, step: str, cause: str, *, what: str = "cannot reach broker", hint: str = ""
    ) -> None:
        super().__init__(f"{what} {address}: {cause}", hint=hint)
        self.address = address
        self.step = step
        self.cause = cause


class ConnectionRefused(MqttkitError):
    """The broker refused CONNECT: `reason` names the CONNACK's code (MQTT 5, 3.2.2.2)."""

    exit_code = 4

    def __init__(self, address: str, reason: str, *, code: int, hint: str = "") -> None:
        super().__init__(f"broker {address} refused the connection: {reason}", hint=hint)
        self.address = address
        self.reason = reason
        self.code = code


class SubscriptionDenied(MqttkitError):
    """The broker denied a topic filter: `code` is the SUBACK's (MQTT 5, 3.9.3)."""

    exit_code = 5

    def __init__(self, topic_filter: str, reason: str, *, code: int, hint: str = "") -> None:
        super().__init__(f"subscription to {topic_filter!r} denied: {reason}", hint=hint)
        self.topic_filter = topic_filter
        self.reason = reason
        self.code = code


class PublishFailed(MqttkitError):
    """A publish was denied, dropped or not acknowledged."""

    exit_code = 6


class MissingPart(MqttkitError):
    """A needed part is missing; the hint is the command that mends it."""

    exit_code = 7


class AdapterMissing(MissingPart):
    """This machine has no Bluetooth adapter, or the kernel has no Bluetooth."""


class PermissionMissing(MissingPart):
    """The right to use a needed thing is missing."""


class HelperMissing(MissingPart):
    """bluepy's helper program is missing or cannot be run."""


class SourceError(MqttkitError):
    """A source of advertisements failed."""


class AdapterStuck(SourceError):
    """The Bluetooth adapter is there but does not answer."""


class RecordingError(SourceError):
    """A recording cannot be read: the message names file and place."""

    exit_code = 2


class AdvertisementError(MqttkitError):
    """Bytes or values that are no valid advertisement."""


class LifecycleError(MqttkitError):
    """A broker did not start, stop or answer as it should."""


class PortTaken(LifecycleError):
    """Another process listens on the port asked for."""


class BridgeError(MqttkitError):
    """The bridge cannot hand metrics on."""


class SinkUnavailable(BridgeError):
    """The sink cannot commit now: nothing is acknowledged, and the batch is tried again."""


class DeadLettersFull(SinkUnavailable):
    """The dead-letter store has reached its limit: nothing is acknowledged until there is room."""


class SinkRefused(BridgeError):
    """The sink takes no such batch, however often it is tried."""


class SinkBroken(BridgeError):
    """The sink is damaged or of another shape: a human must look."""


class RegistryUnavailable(BridgeError):
    """The registry of tenants cannot be asked now."""


class StoreFailed(MqttkitError):
    """A controller's memory cannot be read or written now."""


class BenchmarkFailed(MqttkitError):
    """A `--fail-if` or a baseline found fault with a bench, or it ended before it was done."""


class TimedOut(MqttkitError):
    """The time given ran out before the messages asked for came (as mosquitto_sub -W)."""

    exit_code = 27


class Interrupted(MqttkitError):
    """Interrupted by a signal before the work was done."""

    exit_code = 130
