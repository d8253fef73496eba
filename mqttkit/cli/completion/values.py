"""The values that a shell completes: names of brokers, users, models and topics."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import click
from click.shell_completion import CompletionItem

from mqttkit.errors import MqttkitError

BROKER_SECONDS = 0.3
"""How long the broker may take to name topics."""
MAX_TOPICS = 1_000
INCOMPLETE = "mqttkit.incomplete"
"""Key of the word to complete, in a context's `meta`."""
_PLAIN = re.compile(r"[\w/.@+:][\w/.@+:=%-]*")


def attach(command: click.Command) -> click.Command:
    """Let the parameters of a command, or of each command in a group, complete what mqttkit knows."""
    for param in command.params:
        source = _source(command, param)
        if source is not None:
            setattr(param, "shell_complete", _completer(source))  # noqa: B010  # in place of the class's method
    if isinstance(command, click.Group):
        for each in command.commands.values():
            attach(each)
    return command


def _source(command: click.Command, param: click.Parameter) -> Callable[[click.Context], list[str]] | None:
    """Return what lists the values of a parameter; None if Click lists them, or if there is no list."""
    named = param.metavar or param.type.name
    module = (command.callback.__module__ if command.callback else "") or ""
    if named == "NAME" and ("--broker" in param.opts or ("--name" in param.opts and ".cli.broker" in module)):
        return lambda _: brokers()
    if "--username" in param.opts or (named == "NAME" and param.name == "user"):
        return lambda context: users(context.params.get("name") or context.params.get("broker_name") or "default")
    if "--model" in param.opts:
        return lambda _: models()
    if named.strip("[].") in ("TOPIC", "FILTER") or (isinstance(param, click.Argument) and param.name == "topic"):
        return topics
    return None


def _completer(source: Callable[[click.Context], list[str]]) -> Callable[[click.Context, str], list[CompletionItem]]:
    def complete(context: click.Context, incomplete: str) -> list[CompletionItem]:
        context.meta[INCOMPLETE] = incomplete
        with contextlib.suppress(MqttkitError, OSError):
            return [CompletionItem(value) for value in source(context) if value.startswith(incomplete) and plain(value)]
        return []

    return complete


def plain(value: str) -> bool:
    """Return whether every shell takes a value as it is: anybody may choose a topic name, such as `a/$(reboot)`.

    Bash gets values without quotes, and the scripts cut them at line feeds; that of fish also at commas.
    """
    return _PLAIN.fullmatch(value) is not None


def brokers() -> list[str]:
    """Return the names of the brokers of `broker up`."""
    from mqttkit.broker.profile import broker_names

    return broker_names()


def users(broker: str) -> list[str]:
    """Return the users of a broker of `broker up`."""
    from mqttkit.broker import existing_broker
    from mqttkit.broker.live.accounts import read_accounts

    return list(read_accounts(existing_broker(broker)).passwords.hashes)


def models() -> list[str]:
    """Return the models of simulated sensors."""
    from mqttkit.nodes import MODELS

    return list(MODELS)


def topics(context: click.Context) -> list[str]:
    """Return topic names that the broker of the command line sends within 0.3 s, sorted: retained and live ones."""
    found: set[str] = set()
    thread = threading.Thread(target=_collect, args=(context, found), name="mqttkit-completion", daemon=True)
    thread.start()
    thread.join(BROKER_SECONDS)
    return sorted(found.copy())


def _collect(context: click.Context, found: set[str]) -> None:
    """Add topics to `found` until the time is up; an unreachable broker has none."""
    from mqttkit.addresses import parse_url
    from mqttkit.cli.options.loading import load
    from mqttkit.client import MqttClient

    deadline = time.monotonic() + BROKER_SECONDS
    typed, _, _ = str(context.meta[INCOMPLETE]).rpartition("/")
    with contextlib.suppress(MqttkitError, OSError), context.scope(cleanup=False):
        url, given = context.params.get("url"), context.params
        broker = parse_url(url) if url else None
        settings = load(given.get("config"), url=broker, broker_name=given.get("broker_name") or "default").mqtt
        settings = replace(settings, client=replace(settings.client, client_id=None, connect_timeout=BROKER_SECONDS))
        with MqttClient(settings, retry=False) as client:
            client.connect(timeout=BROKER_SECONDS)
            client.subscribe(f"{typed}/#" if typed and not set(typed) & set("+#$") else "#", timeout=BROKER_SECONDS)
            for message in client.messages(timeout=max(0.01, deadline - time.monotonic())):
                found.add(message.topic)
                if len(found) >= MAX_TOPICS or time.monotonic() >= deadline:
                    return
