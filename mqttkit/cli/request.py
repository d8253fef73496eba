"""`mqttkit request` and `mqttkit respond`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.mosquitto import MosquittoCommand
from mqttkit.cli.options.numbers import COUNT, SOME_SECONDS, Number
from mqttkit.cli.options.topic import TOPIC
from mqttkit.cli.output.render import StandardOutput, on_terminal
from mqttkit.cli.signals import interrupts_raise, on_interrupt
from mqttkit.errors import PublishFailed, RequestFailed, UsageError
from mqttkit.formats import payload_formatter, verbose_formatter
from mqttkit.topics import check_topic_filter, check_topic_name

if TYPE_CHECKING:
    from mqttkit.messages import Message


@click.command(cls=MosquittoCommand, default_qos="1")
@click.argument("topic", required=False, type=TOPIC)
@click.option("-t", "--topic", "more_topic", metavar="TOPIC", help="Topic name, instead of the argument.")
@click.option("-m", "--message", metavar="TEXT", help="The payload of the request.")
@click.option("-s", "--stdin-file", "whole_stdin", is_flag=True, help="The payload is the whole of stdin.")
@click.option("-C", "count", type=COUNT, default=1, help="Answers to wait for.  [1]")
@click.option("-W", "seconds", type=SOME_SECONDS, default=10.0, help="Time limit.  [10]")
@click.option("-e", "--response-topic", metavar="TOPIC", help="Topic of the answers.  [MQTT 5: a private one]")
@click.option("-v", "--verbose", is_flag=True, help="Print topic, space, payload.")
@click.option("--json", "as_json", is_flag=True, help="Print each answer as a JSON object.")
@click.option("--raw", is_flag=True, help="Do not escape control characters on a terminal.")
@terse_connection_options
def request(connection: ConnectionOptions, topic: str | None, more_topic: str | None, **given: Any) -> None:
    """Publish a request on TOPIC and print the answers.

    Exit code 27: fewer answers than -C arrived in time. Exit code 1: a responder answered with an error.

    \b
    mqttkit request device/1/ping -m hello
    mqttkit request -W 30 -C 3 device/all/status
    """
    from mqttkit.request_response.requester import Requester, RequestOptions

    place = topic or more_topic or connection.url_topic
    if place is None:
        raise UsageError("no topic", hint="For example: mqttkit request device/1/ping -m hello")
    if given["message"] is not None and given["whole_stdin"]:
        raise UsageError("-m and -s both give the payload: use one of them")
    check_topic_name(place)
    payload = sys.stdin.buffer.read() if given["whole_stdin"] else os.fsencode(given["message"] or "")
    options = RequestOptions(
        qos=1 if connection.qos is None else connection.qos,
        seconds=given["seconds"],
        count=given["count"],
        response_topic=given["response_topic"],
    )
    output, errors = StandardOutput(), []
    with interrupts_raise(), Requester(connection.settings.mqtt) as requester:
        for answer in requester.request(place, payload, options):
            error = _error_of(answer)
            if error is not None:
                errors.append(error)
            else:
                output.write(_formatted(answer, given))
                output.flush()
    if errors:
        raise RequestFailed(f"the responder answered with an error: {errors[0]}")


def _formatted(answer: Message, given: dict[str, Any]) -> bytes:
    import time

    from mqttkit.formats.jsonlines import json_formatter
    from mqttkit.formats.visible import terminal_formatter

    verbose = verbose_formatter if given["verbose"] else payload_formatter
    formatter = json_formatter() if given["as_json"] else verbose(b"\n")
    if on_terminal() and not given["raw"]:
        formatter = terminal_formatter(formatter)
    return formatter([answer], time.time_ns())


def _error_of(answer: Message) -> str | None:
    properties = () if answer.properties is None else answer.properties.user_properties
    return next((value for name, value in properties if name == "error"), None)


@click.command(cls=GroupedCommand, default_qos="1")
@click.argument("filters", metavar="FILTER...", nargs=-1, type=TOPIC)
@click.option("--command", metavar="COMMAND", help="Shell command: the request is its stdin, the answer its stdout.")
@click.option("--payload", metavar="TEXT", help="A fixed answer.")
@click.option("-e", "--response-topic", metavar="TOPIC", help="Topic for answers if the request names none.")
@click.option(
    "--concurrency", type=Number("N", low=1, high=1000, whole=True), default=4, help="Commands at a time.  [4]"
)
@click.option("--timeout", type=SOME_SECONDS, default=30.0, help="Seconds for a command.  [30]")
@click.option("-C", "count", type=COUNT, help="End after this number of requests.")
@terse_connection_options
def respond(connection: ConnectionOptions, filters: tuple[str, ...], **given: Any) -> None:
    """Answer requests on the topic filters with the output of a command, or with a fixed payload.

    The command gets the topic in MQTT_TOPIC. If it fails, the answer carries the error. Exit code 6: an answer was not
    delivered.

    \b
    mqttkit respond 'device/+/ping' --payload pong
    mqttkit respond device/1/uptime --command uptime
    """
    from mqttkit.request_response.command import command_answer
    from mqttkit.request_response.responder import Responder, ResponderOptions
    from mqttkit.stop import Stop

    chosen = tuple(check_topic_filter(each) for each in (*filters, *filter(None, [connection.url_topic])))
    if not chosen:
        raise UsageError("no topic filter", hint="For example: mqttkit respond 'device/+/ping' --payload pong")
    if (given["command"] is None) == (given["payload"] is None):
        raise UsageError("use either --command or --payload: it says what to answer")
    fixed = os.fsencode(given["payload"] or "")
    options = ResponderOptions(
        topic_filters=chosen,
        qos=1 if connection.qos is None else connection.qos,
        response_topic=given["response_topic"],
        concurrency=given["concurrency"],
        count=given["count"],
    )
    answer = (lambda _: fixed) if given["command"] is None else command_answer(given["command"], given["timeout"])
    stop = Stop()
    with (
        on_interrupt(stop.set),
        Responder(connection.settings.mqtt, options, answer, retry=connection.retry) as responder,
    ):
        totals = responder.run(stop)
    text = f"{totals.answered} answered, {totals.failed} failed, {totals.unanswerable} without a response topic"
    click.echo(text, err=True)
    if totals.undelivered:
        raise PublishFailed(f"{totals.undelivered} answers were not delivered")
