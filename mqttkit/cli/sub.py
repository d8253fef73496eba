"""`mqttkit sub`."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.mosquitto import MosquittoCommand
from mqttkit.cli.options.numbers import COUNT, SOME_SECONDS, Number
from mqttkit.cli.options.topic import TOPIC
from mqttkit.cli.output.render import StandardOutput, on_terminal, pretty_json_formatter, watch_reader
from mqttkit.cli.signals import interrupts_raise, on_interrupt
from mqttkit.client import ConnectionState, MqttClient, checked_settings
from mqttkit.client.control import deliver_plain
from mqttkit.client.message_queue import MessageBatch
from mqttkit.errors import Interrupted, TimedOut, UsageError
from mqttkit.formats import Formatter, payload_formatter, verbose_formatter
from mqttkit.messages import Message, Subscription
from mqttkit.publisher import Publisher
from mqttkit.settings import MqttSettings
from mqttkit.subscriber import ReadOptions, Subscriber
from mqttkit.topics import check_topic_filter

log = logging.getLogger(__name__)

RETAIN_HANDLING = {"always": 0, "new": 1, "never": 2}
"""When the broker sends retained messages (MQTT 5, 3.8.3.1)."""
REMOVAL_SECONDS = 30.0
"""How long --remove-retained waits for acknowledgements at the end."""


@dataclass(frozen=True)
class SubscribeOptions:
    """The options of one call, without those of the connection."""

    filters: tuple[str, ...]
    more_filters: tuple[str, ...]
    filter_out: tuple[str, ...]
    count: int | None
    seconds: float | None
    only_subscribe: bool
    skip_retained: bool
    retained_only: bool
    remove_retained: bool
    dropped: tuple[str, ...]
    share: float
    retain_as_published: bool
    retain_handling: str | None
    verbose: bool
    template: str | None
    as_json: bool
    pretty: bool
    no_newline: bool
    field: str | None
    raw: bool

    def check(self) -> None:
        """Raise UsageError if options contradict each other."""
        if self.as_json and (self.verbose or self.template is not None or self.no_newline):
            raise UsageError("--json does not work with -v, -F and -N")
        if self.field is not None and (self.as_json or self.template is not None):
            raise UsageError("--field does not work with --json and -F", hint="With -F, use %J or a pipe into jq")
        if self.retained_only and self.skip_retained:
            raise UsageError("--retained-only and -R together print nothing")
        if self.retain_handling is not None and (self.skip_retained or self.retained_only):
            raise UsageError("--retain-handling does not work with -R and --retained-only")
        if self.retain_as_published and (self.retained_only or self.skip_retained):
            raise UsageError("--retain-as-published does not work with -R and --retained-only")

    def formatter(self) -> Formatter:
        """Return the formatter for the output. On a terminal it escapes control characters, unless --raw is given."""
        if self.as_json and (self.pretty or on_terminal()):
            return pretty_json_formatter()
        if self.raw or not on_terminal():
            return self._exact_formatter()
        from mqttkit.formats.visible import terminal_formatter

        return terminal_formatter(self._exact_formatter())

    def _exact_formatter(self) -> Formatter:
        end = b"" if self.no_newline else b"\n"
        if self.as_json:
            from mqttkit.formats.jsonlines import json_formatter

            return json_formatter()
        if self.template is not None:
            from mqttkit.formats.template import template_formatter

            return _one_by_one(template_formatter(self.template, end, pretty=self.pretty))
        if self.field is not None:
            from mqttkit.formats.field import field_formatter

            return field_formatter(self.field, end, verbose=self.verbose, on_missing=log.warning)
        return verbose_formatter(end) if self.verbose else payload_formatter(end)

    def selection(self) -> ReadOptions:
        """Return the choice of messages to print."""
        return ReadOptions(
            count=self.count,
            retained_only=self.retained_only,
            skip_retained=self.skip_retained,
            exclude=tuple(check_topic_filter(topic_filter) for topic_filter in self.filter_out),
        )

    def subscriptions(self, connection: ConnectionOptions) -> list[Subscription]:
        """Return the subscriptions; raise UsageError if there are none, and nothing to unsubscribe."""
        filters = [*self.filters, *self.more_filters]
        if connection.url_topic:
            filters.append(connection.url_topic)
        for topic_filter in self.dropped:
            check_topic_filter(topic_filter)
        if not filters and not self.dropped:
            raise UsageError("no topic filter", hint="To print every message: mqttkit sub '#'")
        told = self.retained_only or self.skip_retained
        default = 2 if self.as_json else connection.settings.mqtt.client.qos
        return [
            Subscription(
                check_topic_filter(topic_filter),
                qos=default if connection.qos is None else connection.qos,
                no_local=self.remove_retained and not topic_filter.startswith("$share/"),
                retain_as_published=self.retain_as_published or (self.as_json and not told),
                retain_handling=2 if self.skip_retained else RETAIN_HANDLING[self.retain_handling or "always"],
            )
            for topic_filter in filters
        ]

    def settings(self, connection: ConnectionOptions) -> MqttSettings:
        """Return the client's settings; raise UsageError if they cannot work.

        A broker queues few messages for a client whose window is full, and drops the others: mosquitto queues 1,000.
        Retained messages come all at the same time, so --retained-only uses the largest window of MQTT 5.
        """
        settings = checked_settings(connection.settings.mqtt)
        if not self.retained_only:
            return settings
        return replace(settings, client=replace(settings.client, receive_maximum=65_535))

    def sample(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return a random sample of the messages, of --random-filter percent."""
        if self.share >= 100:
            return messages
        return [message for message in messages if random.uniform(0, 100) < self.share]  # noqa: S311  no secret

    @property
    def plain(self) -> bool:
        """True if only topic names and payloads are needed."""
        looks = self.filter_out or self.skip_retained or self.retained_only or self.remove_retained
        return not (looks or self.as_json or self.template is not None or self.field is not None)

    @property
    def endless(self) -> bool:
        """True if only a signal or -W ends it."""
        return self.count is None and not self.retained_only


@click.command(cls=MosquittoCommand, default_qos="0; 2 with --json")
@click.argument("filters", metavar="FILTER...", nargs=-1, type=TOPIC)
@click.option("-t", "--topic", "more_filters", multiple=True, metavar="FILTER", help="Topic filter, as the argument.")
@click.option("-T", "--filter-out", multiple=True, metavar="FILTER", help="Do not print messages that match FILTER.")
@click.option(
    "-U", "--unsubscribe", "dropped", multiple=True, metavar="FILTER", help="Remove a session's subscription."
)
@click.option("-C", "count", type=COUNT, help="End after N messages.")
@click.option("-W", "seconds", type=SOME_SECONDS, help="End with 27 after this time.")
@click.option("-E", "only_subscribe", is_flag=True, help="End once the broker has acknowledged the subscriptions.")
@click.option("-R", "skip_retained", is_flag=True, help="Do not print retained messages.")
@click.option("--retained-only", is_flag=True, help="Print the retained messages, then end.")
@click.option("--remove-retained", is_flag=True, help="Clear each retained message received.")
@click.option("--retain-as-published", is_flag=True, help="Keep the retain flag of live messages (MQTT 5).")
@click.option(
    "--retain-handling",
    type=click.Choice(list(RETAIN_HANDLING)),
    metavar="WHEN",
    help="Ask for retained messages always, never, or only for new subscriptions (MQTT 5).  [always]",
)
@click.option(
    "--random-filter",
    "share",
    type=Number("PERCENT", low=0.1, high=100),
    default=100.0,
    help="Print a random sample of this many percent.  [100]",
)
@click.option("-v", "--verbose", is_flag=True, help="Print topic, space, payload.")
@click.option("-F", "--format", "template", metavar="FORMAT", help="Format: %t topic, %p payload, %j JSON, …")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines; subscribes at QoS 2 without -q.")
@click.option("--pretty", is_flag=True, help="Indent JSON.")
@click.option("--field", metavar="FIELD", help="Print one value of a JSON payload, such as sensors.0.value.")
@click.option("--raw", is_flag=True, help="Do not escape control characters on a terminal.")
@click.option("-N", "no_newline", is_flag=True, help="Print no line feed after a message.")
@terse_connection_options
def sub(connection: ConnectionOptions, **given: Any) -> None:
    """Subscribe to topic filters and print each message.

    Prints the payload and a line feed: byte for byte in a pipe, with control characters escaped on a terminal.
    Runs until interrupted, or until -C, -W, -E or --retained-only end it.

    \b
    mqttkit sub -v '#'
    mqttkit sub -C 1 -W 5 health/broker
    """
    options = SubscribeOptions(**given)
    options.check()
    formatter, selection = options.formatter(), options.selection()
    client = connection.settings.mqtt.client
    subscriptions = options.subscriptions(connection)
    if not subscriptions:
        _unsubscribe(connection, options)
        return
    keeps = not client.clean_session and max(each.qos for each in subscriptions) == 1
    subscriber = Subscriber(
        options.settings(connection),
        subscriptions,
        will=connection.will,
        retry=connection.retry and not options.retained_only,
        manual_ack=keeps,
        lower_qos=options.as_json and connection.qos is None,
        seconds=options.seconds,
        bounded=not options.remove_retained,  # the network thread must read on to get the acknowledgements
    )
    if options.plain and not keeps:
        deliver_plain(subscriber.client)
    subscriber.on_state = _announcer(connection)
    with interrupts_raise(), subscriber:
        if options.dropped:
            subscriber.client.unsubscribe(*options.dropped)
        if not options.only_subscribe:
            _print(subscriber, selection, formatter, options)


def _announcer(connection: ConnectionOptions) -> Callable[[ConnectionState, str], None] | None:
    """Return a handler that reports on a terminal when the connection is up, lost and back; None elsewhere."""
    if connection.quiet or not (on_terminal() and sys.stderr.isatty()):
        return None
    connected_before = False

    def announce(state: ConnectionState, reason: str) -> None:
        nonlocal connected_before
        if state is ConnectionState.CONNECTED:
            again = "connected again" if connected_before else "connected"
            click.echo(f"{again} to {reason}, waiting for messages", err=True)
            connected_before = True

    return announce


def _unsubscribe(connection: ConnectionOptions, options: SubscribeOptions) -> None:
    """Remove subscriptions from the session; subscribe to nothing."""
    settings = checked_settings(connection.settings.mqtt)
    with interrupts_raise(), MqttClient(settings, will=connection.will, retry=False) as client:
        client.connect()
        client.unsubscribe(*options.dropped)


def _print(subscriber: Subscriber, selection: ReadOptions, formatter: Formatter, options: SubscribeOptions) -> None:
    """Print messages until the selection is complete, a signal comes, or stdout has no reader."""
    output, printed = StandardOutput(), 0
    remover = Publisher(subscriber.client) if options.remove_retained else None
    with on_interrupt(lambda: subscriber.stop("interrupted")), watch_reader(lambda: subscriber.stop("not read")):
        try:
            for batch in subscriber.batches(selection):
                output.write(formatter(options.sample(batch.messages), batch.received_at))
                printed += len(batch.messages)
                if remover is not None:
                    remover.send(_removals(batch))
                if subscriber.must_flush:
                    output.flush()
        except TimedOut as error:
            raise TimedOut(f"timed out after {options.seconds:g} s: received {_so_far(printed, options)}") from error
        finally:
            output.flush()
    if remover is not None:
        remover.finish(REMOVAL_SECONDS)
    if subscriber.stopped == "interrupted" and not options.endless:
        raise Interrupted(f"interrupted: received {_so_far(printed, options)}")


def _so_far(printed: int, options: SubscribeOptions) -> str:
    return f"{printed} messages" if options.count is None else f"{printed} of {options.count} messages"


def _removals(batch: MessageBatch) -> list[Message]:
    """Return messages that clear the retained ones of the batch (MQTT 5, 3.3.1.3)."""
    return [Message(message.topic, b"", 1, True) for message in batch.messages if message.retain]


def _one_by_one(formatter: Formatter) -> Formatter:
    """Format each message separately: if %J cannot print one, the others are still printed."""
    from mqttkit.formats.template import NotJson

    def attempt(message: Message, when: int) -> bytes:
        try:
            return formatter([message], when)
        except NotJson as error:
            log.warning("%s", error)
            return b""

    return lambda messages, when: b"".join([attempt(message, when) for message in messages])
