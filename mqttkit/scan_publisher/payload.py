"""The payload of an advertisement."""

from __future__ import annotations

import json

from mqttkit.scanner.advertisement import Advertisement, format_timestamp, manufacturer_fields

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def format_advertisement(advertisement: Advertisement, scanner_id: str, sequence: int, *, raw: bool = False) -> bytes:
    """Return the payload in UTF-8 JSON, as docs/reference/advertisement.schema.json describes it.

    `sequence` counts the advertisements of this scanner; a gap shows that some were lost. With `raw` the payload
    contains the AD structures, if the source provides them.
    """
    manufacturer, earlier = manufacturer_fields(advertisement)
    fields: dict[str, object] = {
        "scanner_id": scanner_id,
        "sequence": sequence,
        "mac_address": advertisement.mac_address,
        "address_type": advertisement.address_type,
        "rssi": advertisement.rssi,
        "timestamp": format_timestamp(advertisement.timestamp),
        "manufacturer_data": manufacturer,
        "service_uuids": advertisement.service_uuids,
        "local_name": advertisement.local_name,
    }
    if advertisement.alias is not None:
        fields["alias"] = advertisement.alias
    if advertisement.adapter is not None:
        fields["adapter"] = advertisement.adapter
    if advertisement.connectable is not None:
        fields["connectable"] = advertisement.connectable
    if advertisement.service_data:
        fields["service_data"] = {uuid: data.hex() for uuid, data in advertisement.service_data.items()}
    if advertisement.tx_power is not None:
        fields["tx_power"] = advertisement.tx_power
    if earlier:
        fields["manufacturer_data_earlier"] = earlier
    if raw and advertisement.raw is not None:
        fields["raw_ad"] = advertisement.raw.hex()
    return _encode(fields).encode()
