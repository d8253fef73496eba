"""The error tree: every error that reaches a user is one of these.

    MqttkitError                    1   failed in a way that no other code names
    ├── UsageError                  2   wrong usage: an option, an argument, a file's content
    │   ├── ConfigError             2   mqttkit.yaml or the environment, with file and line
    │   └── TopicError              2   a malformed topic name, topic filter or topic template
    ├── BrokerUnreachable           3   the DNS, TCP, TLS, WebSocket or MQTT handshake failed
    ├── ConnectionRefused           4   the broker refused CONNECT
    ├── SubscriptionDenied          5   the broker denied a topic filter
    ├── PublishFailed               6   a publish was denied, dropped or not acknowledged
    │   ├── PublishDenied           6   the broker denied it
    │   └── PublishLost             6   dropped by the client, or lost with the connection
    ├── MissingPart                 7   an engine, a program or an extra is not installed
    │   ├── AdapterMissing          7   no Bluetooth adapter
    │   ├── PermissionMissing       7   a permission is missing
    │   └── HelperMissing           7   bluepy's helper program is missing or cannot run
    ├── SourceError                 1   a source of advertisements failed
    │   ├── AdapterStuck            1   the Bluetooth adapter does not answer
    │   └── RecordingError          2   a recording cannot be read
    ├── AdvertisementError          1   bytes that are not an advertisement
    ├── LifecycleError              1   a broker did not start, stop or answer as expected
    │   └── PortTaken               1   another process listens on the port
    ├── BridgeError                 1   the bridge cannot store metrics
    │   ├── SinkUnavailable         1   the sink cannot commit now; the bridge tries again
    │   │   └── DeadLettersFull     1   the dead-letter store is full
    │   ├── SinkRefused             1   the sink will never accept the batch
    │   ├── SinkBroken              1   the sink is damaged and needs repair by hand
    │   └── RegistryUnavailable     1   the registry of tenants does not answer now
    ├── StoreFailed                 1   a controller's state file cannot be read or written
    ├── CommandFailed               1   a command that mqttkit started failed
    ├── RequestFailed               1   a responder answered a request with an error
    ├── NotMqtt                     1   a stream holds no MQTT packets
    ├── BenchmarkFailed             1   a bench missed its --fail-if or its baseline
    ├── TimedOut                   27   -W expired before -C messages arrived
    └── Interrupted               130   interrupted by a signal

An error says what failed, where, and the likely cause; its hint is the next command to run.
"""

from __future__ import annotations


class MqttkitError(Exception):
    """Root of the tree.

    `hint` is the next step for the user, a sentence or a command, or an empty string.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class UsageError(MqttkitError):
    """An option, an argument or a file's content is invalid."""

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
    """The connection was not established: `step` is `dns`, `tcp`, `tls`, `websocket` or `mqtt`."""

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


class PublishDenied(PublishFailed):
    """The broker denied a publish: `code` is that of PUBACK or PUBREC (MQTT 5, 3.4.2.1)."""

    def __init__(self, topic: str, reason: str, *, code: int, hint: str = "") -> None:
        super().__init__(f"publish to {topic!r} denied: {reason}", hint=hint)
        self.topic = topic
        self.reason = reason
        self.code = code


class PublishLost(PublishFailed):
    """The client dropped a publish, or the connection ended before the broker acknowledged it."""

    def __init__(self, topic: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"publish to {topic!r} not delivered: {reason}", hint=hint)
        self.topic = topic
        self.reason = reason


class MissingPart(MqttkitError):
    """A required part is missing; the hint is the command that installs it."""

    exit_code = 7


class AdapterMissing(MissingPart):
    """This machine has no Bluetooth adapter, or the kernel has no Bluetooth."""


class PermissionMissing(MissingPart):
    """A permission is missing."""


class HelperMissing(MissingPart):
    """bluepy's helper program is missing or cannot be run."""


class SourceError(MqttkitError):
    """A source of advertisements failed."""


class AdapterStuck(SourceError):
    """The Bluetooth adapter does not answer."""


class RecordingError(SourceError):
    """A recording cannot be read: the message names file and position."""

    exit_code = 2


class AdvertisementError(MqttkitError):
    """Bytes or values that are not a valid advertisement."""


class LifecycleError(MqttkitError):
    """A broker did not start, stop or answer as expected."""


class PortTaken(LifecycleError):
    """Another process listens on the port."""


class BridgeError(MqttkitError):
    """The bridge cannot store metrics."""


class SinkUnavailable(BridgeError):
    """The sink cannot commit now: the bridge acknowledges nothing and tries the batch again."""


class DeadLettersFull(SinkUnavailable):
    """The dead-letter store is full: the bridge acknowledges nothing until there is room."""


class SinkRefused(BridgeError):
    """The sink will never accept the batch."""


class SinkBroken(BridgeError):
    """The sink is damaged or has another schema: it needs repair by hand."""


class RegistryUnavailable(BridgeError):
    """The registry of tenants does not answer now."""


class StoreFailed(MqttkitError):
    """A controller's state file cannot be read or written."""


class CommandFailed(MqttkitError):
    """A command that mqttkit started ended with an exit code other than 0, or took too long."""


class RequestFailed(MqttkitError):
    """A responder answered a request with an error."""


class NotMqtt(MqttkitError):
    """A stream of bytes holds no MQTT packets."""


class BenchmarkFailed(MqttkitError):
    """A bench missed its `--fail-if` or its baseline, or ended early."""


class TimedOut(MqttkitError):
    """The time limit expired before the wanted messages arrived (as mosquitto_sub -W)."""

    exit_code = 27


class Interrupted(MqttkitError):
    """Interrupted by a signal."""

    exit_code = 130


def reason_of(error: Exception) -> str:
    """Return why something failed; of an OSError without its number: `No such file or directory: x`."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__
