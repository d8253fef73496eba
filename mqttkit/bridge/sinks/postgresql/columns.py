"""Which column of the user's table takes which field of a metric, and how its value is converted. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

METRIC_COLUMNS = {
    "tenant_id": "uuid",
    "agent_id": "text",
    "metric_name": "text",
    "value": "double precision",
    "timestamp_ms": "bigint",
    "dedupe_id": "text",
    "tags": "jsonb",
    "received_ms": "bigint",
}
"""Each field, and the type of its column in a table that mqttkit creates."""
KEY = ("tenant_id", "agent_id", "metric_name", "dedupe_id")
"""The fields by which duplicates are found."""
LEFT_OUT = "-"
"""In a mapping: this field is not stored."""
_TEXT = {"text": "{}::text", "character varying": "{}::text"}
_TIME = {"bigint": "{}", "timestamp with time zone": "to_timestamp({} / 1000.0)"}
_CONVERSIONS: dict[str, dict[str, str]] = {
    "tenant_id": {"uuid": "{}", **_TEXT},
    "agent_id": _TEXT,
    "metric_name": _TEXT,
    "value": {"double precision": "{}"},
    "timestamp_ms": _TIME,
    "dedupe_id": _TEXT,
    "tags": {"jsonb": "{}", "json": "{}::json", **_TEXT},
    "received_ms": _TIME,
}
"""By field and type of the column: the SQL expression that converts the field."""


def quoted(name: str) -> str:
    """Quote a name for SQL, with its schema if it has one."""
    return ".".join(f'"{part}"' for part in name.split("."))


@dataclass(frozen=True)
class ColumnMap:
    """The names of the columns. A field that is not in the mapping has a column of the same name."""

    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> ColumnMap:
        """Return the mapping that `--columns` gives: FIELD=COLUMN,… It is valid already."""
        return cls(dict(part.split("=", 1) for part in text.split(","))) if text else cls()

    def name(self, field_name: str) -> str:
        """Return the name of a field's column."""
        return self.names.get(field_name, field_name)

    def stored(self) -> list[str]:
        """Return the fields that are stored."""
        return [name for name in METRIC_COLUMNS if self.names.get(name) != LEFT_OUT]

    def key(self) -> list[str]:
        """Return the columns by which duplicates are found."""
        return [self.name(one) for one in KEY]

    def definition(self) -> dict[str, str]:
        """Return the name and type of each column in a table that mqttkit creates."""
        return {self.name(one): METRIC_COLUMNS[one] for one in self.stored()}

    def differences(self, found: Mapping[str, tuple[str, bool]]) -> list[str]:
        """Compare with the columns of a table, by name: type, and True if the column needs a value."""
        wanted = {self.name(one): one for one in self.stored()}
        wrong = [f"{name} is missing ({METRIC_COLUMNS[one]})" for name, one in wanted.items() if name not in found]
        wrong += [
            f"{name} is {found[name][0]}, not {' or '.join(_CONVERSIONS[one])}"
            for name, one in wanted.items()
            if name in found and found[name][0] not in _CONVERSIONS[one]
        ]
        return wrong + [f"{name} needs a value" for name, (_, needed) in found.items() if needed and name not in wanted]

    def converted(self, kinds: Mapping[str, str]) -> list[str]:
        """Return an SQL expression for each stored field; `kinds` are the types of the table's columns by name."""
        return [conversion(one, kinds[self.name(one)]).format(one) for one in self.stored()]


def conversion(field_name: str, kind: str) -> str:
    """Return the expression that converts a field to a column of this type, with {} for the field."""
    return _CONVERSIONS[field_name][kind]
