"""mqttkit: a toolkit for MQTT. The names in `__all__` are its public API.

The public API is stable: a release changes or removes one of these names only after a release that warns about it.
Everything else may change in any release: other names, submodules, and attributes that begin with an underscore.

`import mqttkit` imports nothing else. Each name loads its module when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for typing.TYPE_CHECKING, whose import costs more than all the rest here

if TYPE_CHECKING:
    from mqttkit import aio
    from mqttkit.broker import temporary_broker
    from mqttkit.client import BlockReceipt, ClientStats, ConnectionState, Receipt
    from mqttkit.client.connecting import Client, connect
    from mqttkit.errors import (
        BrokerUnreachable,
        ConfigError,
        ConnectionRefused,
        MqttkitError,
        PublishDenied,
        PublishFailed,
        PublishLost,
        SubscriptionDenied,
        TopicError,
        UsageError,
    )
    from mqttkit.messages import Message, Outcome, Properties, Subscription, Will
    from mqttkit.settings import (
        BrokerSettings,
        ClientSettings,
        LimitSettings,
        MqttSettings,
        ReconnectSettings,
        TlsSettings,
    )

__version__ = "0.1.0"

_MODULES = {
    "broker": ("temporary_broker",),
    "client": ("BlockReceipt", "ClientStats", "ConnectionState", "Receipt"),
    "client.connecting": ("Client", "connect"),
    "errors": (
        "BrokerUnreachable",
        "ConfigError",
        "ConnectionRefused",
        "MqttkitError",
        "PublishDenied",
        "PublishFailed",
        "PublishLost",
        "SubscriptionDenied",
        "TopicError",
        "UsageError",
    ),
    "messages": ("Message", "Outcome", "Properties", "Subscription", "Will"),
    "settings": (
        "BrokerSettings",
        "ClientSettings",
        "LimitSettings",
        "MqttSettings",
        "ReconnectSettings",
        "TlsSettings",
    ),
}
"""The public names in each submodule."""

__all__ = [
    "BlockReceipt",
    "BrokerSettings",
    "BrokerUnreachable",
    "Client",
    "ClientSettings",
    "ClientStats",
    "ConfigError",
    "ConnectionRefused",
    "ConnectionState",
    "LimitSettings",
    "Message",
    "MqttSettings",
    "MqttkitError",
    "Outcome",
    "Properties",
    "PublishDenied",
    "PublishFailed",
    "PublishLost",
    "Receipt",
    "ReconnectSettings",
    "Subscription",
    "SubscriptionDenied",
    "TlsSettings",
    "TopicError",
    "UsageError",
    "Will",
    "aio",
    "connect",
    "temporary_broker",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module (PEP 562)."""
    import importlib

    if name == "aio":
        return importlib.import_module("mqttkit.aio")
    module = next((module for module, names in _MODULES.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module 'mqttkit' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"mqttkit.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
