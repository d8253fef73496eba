"""`mqttkit sub`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import click

from mqttkit.cli.options.connection import Connection, terse_connection_options
from mqttkit.cli.output.render import Output, on_terminal, pretty_json_formatter, watch_reader
from mqttkit.cli.signals import interrupts_raise, on_interrupt
from mqttkit.client import checked_settings
from mqttkit.client.message_queue import MessageBatch
from mqttkit.errors import Interrupted, TimedOut, UsageError
from mqttkit.formats import Formatter, payload_formatter, verbose_formatter
from mqttkit.messages import Message, Subscription
from mqttkit.publisher import Publisher
from mqttkit.settings import MqttSettings
from mqttkit.subscriber import ReadOptions, Subscriber
from mqttkit.topics import check_topic_filter

log = logging.getLogger(__name__)

REMOVAL_SECONDS = 30.0
"""How long the acknowledgements of --remove-retained may take at the end."""


@dataclass(frozen=True)
class Asked:
    """The options of one call, but for the connection's."""

    filters: tuple[str, ...]
    more_filters: tuple[str, ...]
    filter_out: tuple[str, ...]
    count: int | None
    seconds: float | None
    only_subscribe: bool
    skip_retained: bool
    retained_only: bool
    remove_retained: bool
    retain_as_published: bool
    verbose: bool
    template: str | None
    as_json: bool
    pretty: bool
    no_newline: bool

    def check(self) -> None:
        """Raise UsageError where options contradict each other."""
        if self.as_json and (self.verbose or self.template is not None or self.no_newline):
            raise UsageError("--json is a format of its own: leave out -v, -F and -N")
        if self.retained_only and self.skip_retained:
            raise UsageError("--retained-only and -R leave nothing to print")
        if self.retain_as_published and (self.retained_only or self.skip_retained):
            raise UsageError("--retain-as-published takes away what -R and --retained-only look at")

    def formatter(self) -> Formatter:
        """Return what turns messages into what is printed."""
        end = b"" if self.no_newline else b"\n"
        if self.as_json:
            if self.pretty or on_terminal():
                return pretty_json_formatter()
            from mqttkit.formats.jsonlines import json_formatter

            return json_formatter()
        if self.template is not None:
            from mqttkit.formats.template import template_formatter

            return _one_by_one(template_formatter(self.template, end, pretty=self.pretty))
        return verbose_formatter(end) if self.verbose else payload_formatter(end)

    def selection(self) -> ReadOptions:
        """Return which messages are printed."""
        return ReadOptions(
            count=self.count,
            seconds=self.seconds,
            retained_only=self.retained_only,
            skip_retained=self.skip_retained,
            exclude=tuple(check_topic_filter(topic_filter) for topic_filter in self.filter_out),
        )

    def subscriptions(self, connection: Connection) -> list[Subscription]:
        """Return what to subscribe to; raise UsageError where that is nothing."""
        filters = [*self.filters, *self.more_filters]
        if connection.url_topic:
            filters.append(connection.url_topic)
        if not filters:
            raise UsageError("no topic filter", hint="For everything: mqttkit sub '#'")
        told = self.retained_only or self.skip_retained
        default = 2 if self.as_json else connection.settings.mqtt.client.qos
        return [
            Subscription(
                check_topic_filter(topic_filter),
                qos=default if connection.qos is None else connection.qos,
                no_local=self.remove_retained and not topic_filter.startswith("$share/"),
                retain_as_published=self.retain_as_published or (self.as_json and not told),
                retain_handling=2 if self.skip_retained else 0,
            )
            for topic_filter in filters
        ]

    def settings(self, connection: Connection) -> MqttSettings:
        """Return the client's settings; raise UsageError where they cannot work.

        A broker queues little for a client whose window is full, and drops the rest: mosquitto 1,000 messages.
        What is retained comes all at once, so the window is opened as far as MQTT 5 allows.
        """
        settings = checked_settings(connection.settings.mqtt)
        if not self.retained_only:
            return settings
        return replace(settings, client=replace(settings.client, receive_maximum=65_535))

    @property
    def endless(self) -> bool:
        """True where only a signal or -W ends it."""
        return self.count is None and not self.retained_only


@click.command()
@click.argument("filters", metavar="FILTER...", nargs=-1)
@click.option("-t", "--topic", "more_filters", multiple=True, help="Topic filter, as the argument.")
@click.option("-T", "--filter-out", multiple=True, help="Print no message whose topic this filter matches.")
@click.option("-C", "count", type=click.IntRange(1), help="End after so many messages.")
@click.option("-W", "seconds", type=click.FloatRange(0, min_open=True), help="End with 27 after so many seconds.")
@click.option("-E", "only_subscribe", is_flag=True, help="End once the subscriptions are acknowledged.")
@click.option("-R", "skip_retained", is_flag=True, help="Print no retained messages.")
@click.option("--retained-only", is_flag=True, help="Print the retained messages, and end.")
@click.option("--remove-retained", is_flag=True, help="Clear each retained message that comes.")
@click.option("--retain-as-published", is_flag=True, help="Keep the retain flag of live messages (MQTT 5).")
@click.option("-v", "--verbose", is_flag=True, help="Print topic, space, payload.")
@click.option("-F", "--format", "template", help="Print by a format string: %t topic, %p payload, %j JSON, ...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line; QoS 2 where -q is not given.")
@click.option("--pretty", is_flag=True, help="Indent JSON.")
@click.option("-N", "no_newline", is_flag=True, help="Print no end of line after a message.")
@terse_connection_options
def sub(connection: Connection, **given: Any) -> None:
    """Subscribe to topic filters, and print each message as it comes.

    The payload's bytes are printed exactly, and a line feed. Runs until interrupted, or until -C, -W, -E or
    --retained-only end it.
    """
    asked = Asked(**given)
    asked.check()
    formatter, selection = asked.formatter(), asked.selection()
    client = connection.settings.mqtt.client
    subscriptions = asked.subscriptions(connection)
    with (
        interrupts_raise(),
        Subscriber(
            asked.settings(connection),
            subscriptions,
            will=connection.will,
            retry=connection.retry and not asked.retained_only,
            manual_ack=not client.clean_session and max(each.qos for each in subscriptions) == 1,
            bounded=not asked.remove_retained,  # the network thread must read on to get the acknowledgements
        ) as subscriber,
    ):
        if not asked.only_subscribe:
            _print(subscriber, selection, formatter, asked)


def _print(subscriber: Subscriber, selection: ReadOptions, formatter: Formatter, asked: Asked) -> None:
    """Print what comes until the selection is complete, a signal comes, or the reader of stdout is gone."""
    output, printed = Output(), 0
    remover = Publisher(subscriber.client) if asked.remove_retained else None
    with on_interrupt(lambda: subscriber.stop("interrupted")), watch_reader(lambda: subscriber.stop("not read")):
        try:
            for batch in subscriber.batches(selection):
                output.write(formatter(batch.messages, batch.received_at))
                printed += len(batch.messages)
                if remover is not None:
                    remover.send(_removals(batch))
                if subscriber.must_flush:
                    output.flush()
        except TimedOut as error:
            raise TimedOut(f"timed out after {asked.seconds:g} s: {_so_far(printed, asked)} came") from error
        finally:
            output.flush()
    if remover is not None:
        remover.finish(REMOVAL_SECONDS)
    if subscriber.stopped == "interrupted" and not asked.endless:
        raise Interrupted(f"interrupted: {_so_far(printed, asked)} came")


def _so_far(printed: int, asked: Asked) -> str:
    return f"{printed} messages" if asked.count is None else f"{printed} of {asked.count} messages"


def _removals(batch: MessageBatch) -> list[Message]:
    """Return the messages that clear the retained ones of the batch (MQTT 5, 3.3.1.3)."""
    return [Message(message.topic, b"", 1, True) for message in batch.messages if message.retain]


def _one_by_one(formatter: Formatter) -> Formatter:
    """Format each message by itself, so that one which %J cannot print does not take others with it."""
    from mqttkit.formats.template import NotJson

    def attempt(message: Message, when: int) -> bytes:
        try:
            return formatter([message], when)
        except NotJson as error:
            log.warning("%s", error)
            return b""

    return lambda messages, when: b"".join([attempt(message, when) for message in messages])
