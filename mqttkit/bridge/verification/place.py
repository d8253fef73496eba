"""Where a proof stores its metrics: its own tenant, and its own file, table, stream or list, removed afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mqttkit.bridge.sinks import sink_options
from mqttkit.bridge.sinks.redis import tagged
from mqttkit.bridge.sinks.redis_connection import SCHEMES, connect_redis, translated
from mqttkit.errors import BridgeError, UsageError
from mqttkit.settings import BridgeSettings, SparkplugSettings

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def own_place(bridge: BridgeSettings, name: str) -> Iterator[BridgeSettings]:
    """Yield settings for a place beside the user's, on the same server or disk. `name` makes it unique.

    Raise UsageError for a sink that cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="mqttkit-verify-") as directory:
        tenants = Path(directory, "tenants.yaml")
        tenants.write_text(f"- {uuid.uuid4()}\n", "utf-8")
        place = dataclasses.replace(
            _beside(bridge, name, Path(directory)), tenants=str(tenants), sparkplug=SparkplugSettings()
        )
        try:
            yield place
        finally:
            try:
                _remove(place, name)
            except BridgeError as error:
                logger.warning("cannot remove what the proof has stored as %s: %s", name, error)


def _beside(bridge: BridgeSettings, name: str, directory: Path) -> BridgeSettings:
    sink = bridge.sink or ""
    scheme = sink.split(":", 1)[0]
    if scheme in ("sqlite", "jsonl"):
        return dataclasses.replace(bridge, sink=f"{sink}.{name}", dead_letters=None)
    if scheme in ("postgresql", "postgres"):
        return dataclasses.replace(bridge, table=f"{bridge.table}_{name.replace('-', '_')}", keep=None)
    if scheme in SCHEMES:
        own_list = f"{bridge.list}:{name}" if bridge.list else None
        return dataclasses.replace(bridge, stream=f"{bridge.stream}:{name}", list=own_list, job_format="mqttkit")
    if scheme in ("influx", "influxs", "victoria", "victorias"):
        return dataclasses.replace(bridge, dead_letters=str(directory / "ledger.db"))
    if scheme in ("nats", "natss"):
        server = sink.split("?")[0]
        beside = f"{server}-{name}?subject={name}"
        return dataclasses.replace(bridge, sink=beside, dead_letters=str(directory / "ledger.db"))
    if scheme in ("kafka", "kafkas"):
        server, _, query = sink.partition("?")
        beside = f"{server}-{name}?{query}" if query else f"{server}-{name}"
        return dataclasses.replace(bridge, sink=beside, dead_letters=str(directory / "ledger.db"))
    raise UsageError("an http sink cannot be read back", hint="Use another sink for the proof")


def _remove(place: BridgeSettings, name: str) -> None:
    sink = place.sink or ""
    scheme, _, rest = sink.partition(":")
    if scheme in ("sqlite", "jsonl"):
        path = Path(rest.removeprefix("//")).expanduser()
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink(missing_ok=True)
    elif scheme in ("influx", "influxs"):
        from mqttkit.bridge.sinks.remote.influx import InfluxDestination

        with contextlib.closing(InfluxDestination(sink, sink_options(place))) as server:
            server.query(f"DROP SERIES WHERE agent_id = '{name}'")
    elif scheme in ("victoria", "victorias"):
        from mqttkit.bridge.sinks.remote.victoria import VictoriaDestination

        with contextlib.closing(VictoriaDestination(sink, sink_options(place))) as victoria:
            victoria.delete(f'agent_id="{name}"')
    elif scheme in ("nats", "natss"):
        from mqttkit.bridge.sinks.remote.nats import NatsDestination

        with contextlib.closing(NatsDestination(sink, sink_options(place))) as nats:
            nats.delete_stream()
    elif scheme in ("kafka", "kafkas"):
        from mqttkit.bridge.sinks.remote.kafka import KafkaDestination

        with contextlib.closing(KafkaDestination(sink, sink_options(place))) as kafka:
            kafka.delete_topic()
    elif scheme in SCHEMES:
        _remove_keys(place)
    else:
        _remove_tables(place)


def _remove_keys(place: BridgeSettings) -> None:
    data = place.list or place.stream
    client: Any = connect_redis(place.sink or "", timeout=60.0, password_file=place.sink_password_file)
    with contextlib.closing(client), translated("the sink"):
        client.unlink(data)
        for key in client.scan_iter(f"{tagged(data)}:*", count=1_000):
            client.unlink(key)


def _remove_tables(place: BridgeSettings) -> None:
    from mqttkit.bridge.sinks.postgresql.database import Database
    from mqttkit.bridge.sinks.postgresql.tables import Tables, drop_tables

    database = Database(place.sink or "", 60.0, password_file=place.sink_password_file)
    with contextlib.closing(database), database.use() as connection:
        drop_tables(connection, Tables(place.table))
