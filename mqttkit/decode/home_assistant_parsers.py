"""The parsers of Home Assistant as decoders; the only module that imports them. Each is imported when it is needed."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from mqttkit.decode.reading import Decode, Reading, Value
from mqttkit.decode.routes import ParserRoute
from mqttkit.scanner.advertisement import Advertisement

log = logging.getLogger(__name__)

_RSSI_IF_UNKNOWN = -127
_NEEDS_A_KEY = "a bind key"


class _Information:
    """An advertisement with the attributes that the parsers read; the same as habluetooth's BluetoothServiceInfo."""

    manufacturer = manufacturer_id = device = advertisement = None
    connectable = False
    source = "mqttkit"

    def __init__(self, advertisement: Advertisement) -> None:
        self.address = advertisement.mac_address
        self.name = advertisement.local_name or advertisement.mac_address
        self.rssi = _RSSI_IF_UNKNOWN if advertisement.rssi is None else advertisement.rssi
        self.manufacturer_data = {company: fields[-1] for company, fields in advertisement.manufacturer_data.items()}
        self.service_data = advertisement.service_data
        self.service_uuids = list(dict.fromkeys((*advertisement.service_uuids, *advertisement.service_data)))
        self.tx_power = advertisement.tx_power
        self.time = advertisement.timestamp
        self.raw = advertisement.raw


def open_parser(route: ParserRoute, key: bytes | None = None) -> Decode | None:
    """Return a decoder for one device; None if the parser is not installed.

    `key` is the bind key of a device that encrypts its data.
    """
    try:
        module = importlib.import_module(route.module)
    except ImportError as error:
        log.debug("%s is not installed: %s", route.module, error)
        return None
    logging.getLogger(route.module).setLevel(logging.CRITICAL)  # it warns about each odd advertisement
    parser = getattr(module, route.parser)()
    if key is not None and hasattr(parser, "set_bindkey"):
        parser.set_bindkey(key)

    def decode(advertisement: Advertisement) -> Reading | None:
        update = parser.update(_Information(advertisement))
        values = _values(update)
        update.entity_values.clear()  # otherwise the parser would repeat them with the next advertisement
        update.binary_entity_values.clear()
        needs = _NEEDS_A_KEY if not values and _lacks_key(parser) else ""
        return _reading(route.module, update, values, needs) if values or update.devices else None

    return decode


def _lacks_key(parser: Any) -> bool:
    """Return whether the data was encrypted and could not be decrypted."""
    scheme = getattr(getattr(parser, "encryption_scheme", None), "name", "NONE")
    return scheme != "NONE" and not getattr(parser, "bindkey_verified", True)


def _reading(module: str, update: Any, values: tuple[Value, ...], needs: str) -> Reading:
    device = update.devices.get(None) or next(iter(update.devices.values()), None)
    return Reading(
        module,
        values,
        name=update.title,
        model=getattr(device, "model", None),
        manufacturer=getattr(device, "manufacturer", None),
        needs=needs,
    )


def _values(update: Any) -> tuple[Value, ...]:
    """Return the values of an update: sensors, binary sensors and events; the RSSI is not one."""
    values = [
        Value(
            _quantity(key),
            item.native_value,
            _text(_of(description, "native_unit_of_measurement")),
            _class(description),
        )
        for key, item in update.entity_values.items()
        if key.key != "signal_strength" and item.native_value is not None
        for description in (update.entity_descriptions.get(key),)
    ]
    values += [
        Value(_quantity(key), bool(item.native_value), None, _class(update.binary_entity_descriptions.get(key)))
        for key, item in update.binary_entity_values.items()
        if item.native_value is not None
    ]
    values += [Value(_quantity(key), str(event.event_type)) for key, event in update.events.items()]
    return tuple(value._replace(value=_plain(value.value)) for value in values)


def _quantity(key: Any) -> str:
    return f"{key.key}_{key.device_id}" if key.device_id else str(key.key)


def _plain(value: Any) -> float | int | str | bool:
    """Return a value that JSON has; times as text."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def _class(description: Any) -> str | None:
    return _text(_of(description, "device_class"))


def _of(description: Any, name: str) -> Any:
    return None if description is None else getattr(description, name)


def _text(value: Any) -> str | None:
    """Return the text of an enumeration's member or of a string."""
    return None if value is None else str(getattr(value, "value", value))
