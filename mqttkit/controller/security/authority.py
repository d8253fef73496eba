"""Authority: the messages that the owner of a key may send. Pure.

| topic | key that may sign |
| --- | --- |
| discovery/{region}/{id} | local, of the region |
| receipts/{region}/{id} | regional, of the region |
| policy/global | global |
| policy/{region} | regional, of the region |
| events/system | any |
| events/{region} | global, operator, or any of the region |
| status/{id} | any; the role and the region in the heartbeat must be those of the key |
| requests/{id}, answers/{id} | any; the addressee checks the role and the region |
| messages/{prefix}/system | any |
| messages/{prefix}/{region} | global, operator, or any of the region |

A key with an owner signs only for this sender. A shared key, without owner and role, may sign everything.
"""

from __future__ import annotations

from mqttkit.controller.messages.envelope import Envelope
from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.controller.messages.topics import GLOBAL, SYSTEM, Kind, Place
from mqttkit.controller.security.keys import Key


def check_authority(key: Key, place: Place, envelope: Envelope) -> None:
    """Raise MessageRefused (wrong_sender, not_allowed) if the key may not sign this message for this topic."""
    if key.owner is not None and key.owner != envelope.sender_id:
        text = f"key {key.kid!r} belongs to {key.owner!r}, the message names {envelope.sender_id!r} as its sender"
        raise MessageRefused(MessageRefusal.WRONG_SENDER, text)
    if not key.is_shared and not _is_allowed(key, place, envelope):
        whose = " ".join(part for part in (key.role, key.region) if part) or "no role"
        text = f"key {key.kid!r} ({whose}) may not sign {envelope.message_type!r} for {place.topic[:200]!r}"
        raise MessageRefused(MessageRefusal.NOT_ALLOWED, text)


def _is_allowed(key: Key, place: Place, envelope: Envelope) -> bool:
    if place.kind is Kind.DISCOVERY:
        return key.role == "local" and key.region == place.region
    if place.kind is Kind.RECEIPT:
        return key.role == "regional" and key.region == place.region
    if place.kind is Kind.POLICY:
        if place.region == GLOBAL:
            return key.role == "global"
        return key.role == "regional" and key.region == place.region
    if place.kind in (Kind.REQUEST, Kind.ANSWER):
        return key.region is None or key.region == envelope.region
    if place.kind in (Kind.EVENT, Kind.OWN):
        return place.region == SYSTEM or key.role in ("global", "operator") or key.region == place.region
    role_fits = key.role is None or envelope.payload.get("role", key.role) == key.role
    region_fits = key.region is None or envelope.region == envelope.payload.get("region", key.region) == key.region
    return role_fits and region_fits
