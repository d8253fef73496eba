"""Produce metrics to a topic of Kafka, each as JSON under the key TENANT/AGENT.

The producer is idempotent: while the process lives, librdkafka delivers each message once and in order, however often
it has to send it. A crash ends that. So each request begins with the end of each partition, and before a new process
repeats a request it reads which of its messages the topic has received since, by the header `mqttkit-id`.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from mqttkit.bridge.json_record import encode_json, json_record
from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks.ledger import PendingPost, dedupe_key
from mqttkit.bridge.sinks.types import SinkOptions
from mqttkit.config import read_secret
from mqttkit.errors import ConfigError, MissingPart, SinkRefused, SinkUnavailable, UsageError

if TYPE_CHECKING:
    from confluent_kafka import Message, Producer

HEADER = "mqttkit-id"
MAX_MESSAGE = 900_000
"""Bytes. Brokers accept a million, unless message.max.bytes is lower."""
POLL_SECONDS = 0.1
_EXAMPLE = "Example: kafka://localhost:9092/metrics"


class KafkaDestination:
    """One producer, which lives as long as the sink is open."""

    def __init__(self, address: str, options: SinkOptions) -> None:
        """Raise UsageError, or MissingPart without confluent-kafka."""
        try:
            import confluent_kafka  # noqa: F401 - other methods import what they use
        except ImportError as error:
            raise MissingPart("confluent-kafka is not installed", hint="pip install 'mqttkit[kafka]'") from error
        parts = urlsplit(address)
        user, _, hosts = parts.netloc.rpartition("@")
        self._topic = parts.path.strip("/")
        if not hosts or not self._topic or "/" in self._topic:
            raise UsageError("the kafka sink's address has no broker or no topic", hint=_EXAMPLE)
        if ":" in user or "password" in parts.query:
            raise UsageError("a password does not belong in the sink's address", hint="Use --sink-password-file")
        self.name, self.target = f"{parts.scheme}://{hosts}/{self._topic}", ""
        self._options = options
        self._user = unquote(user)
        self._given = dict(parse_qsl(parts.query))
        self._secure = parts.scheme == "kafkas"
        self._hosts = hosts
        self._producer: Producer | None = None
        self._ends: dict[int, int] = {}
        self._batch = ""
        self._waiting = 0
        self._failure = ""

    def encode(self, metrics: Sequence[Metric]) -> bytes:
        """Return the known end of each partition, then a line per metric: key, identifier, JSON."""
        if not self._ends:
            self._ends = self.read_ends()
        return "\n".join((json.dumps(self._ends), *map(_line, metrics))).encode()

    def check_reachable(self) -> None:
        """Ask the brokers for the topic's partitions."""
        self._partitions(self._open())

    def send(self, post: PendingPost, *, repeated: bool) -> None:
        """Produce the messages and wait until all are delivered. A repeated request goes on waiting if it is queued."""
        from confluent_kafka import KafkaException

        producer = self._open()
        try:
            if self._batch != post.batch:
                self._produce_missing(producer, post, repeated)
            self._wait_delivered(producer)
        except KafkaException as error:  # librdkafka has given the producer up
            self._failure = error.args[0].str()
        except BufferError as error:  # its queue has no room for the batch
            self._failure = str(error)
        if self._failure:
            failure = self._failure
            self.close()
            raise SinkUnavailable(f"{self.name}: {failure}")

    def close(self) -> None:
        """Drop the producer with its undelivered messages: the ledger has them."""
        producer, self._producer = self._producer, None
        self._batch, self._ends = "", {}
        if producer is not None:
            producer.purge()
            producer.flush(0)

    def read(self) -> list[bytes]:
        """Return all stored messages; raise SinkUnavailable."""
        return [message.value() or b"" for message in self._messages({})]

    def read_ends(self) -> dict[int, int]:
        """Return the end of each partition, the offset that its next message gets; raise SinkUnavailable."""
        partitions = self._partitions(self._open())  # a producer's question creates the topic if the broker allows it
        with closing(self._consumer()) as consumer:
            return {partition: self._end(consumer, partition) for partition in partitions}

    def delete_topic(self) -> None:
        """Remove the topic; raise SinkUnavailable."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        try:
            for future in AdminClient(self._configuration()).delete_topics([self._topic]).values():
                future.result(self._options.timeout)
        except (KafkaException, TimeoutError) as error:
            raise SinkUnavailable(f"{self.name}: cannot delete the topic: {error}") from error

    def _produce_missing(self, producer: Producer, post: PendingPost, repeated: bool) -> None:
        """Queue the messages of a request that the topic does not have."""
        ends, *lines = post.body.decode().split("\n")
        stored = self._stored_since(json.loads(ends)) if repeated else set()
        messages = [line.split("\t", 2) for line in lines]
        self._batch, self._waiting, self._failure = post.batch, 0, ""
        for key, identifier, text in messages:
            if identifier not in stored:
                self._produce(producer, key, identifier, text)

    def _wait_delivered(self, producer: Producer) -> None:
        """Wait until each message is delivered or has failed: the broker may still store one that it has received."""
        deadline = time.monotonic() + self._options.timeout
        while self._waiting:
            if time.monotonic() > deadline:
                raise SinkUnavailable(f"{self.name}: not delivered within {self._options.timeout:g} s")
            producer.poll(POLL_SECONDS)
            if self._failure:
                producer.purge(in_flight=False)

    def _produce(self, producer: Producer, key: str, identifier: str, text: str) -> None:
        delivered = partial(self._note_delivery, self._batch)
        self._waiting += 1
        producer.produce(self._topic, text.encode(), key.encode(), on_delivery=delivered, headers={HEADER: identifier})

    def _note_delivery(self, batch: str, error: Any, message: Message) -> None:
        """Count a delivery; called in `poll`."""
        if batch != self._batch:
            return
        self._waiting -= 1
        if error is not None:
            self._failure = self._failure or error.str()
            return
        partition, offset = message.partition(), message.offset()
        if partition is not None and offset is not None:
            self._ends[partition] = max(self._ends.get(partition, 0), offset + 1)

    def _open(self) -> Producer:
        from confluent_kafka import KafkaException, Producer

        if self._producer is None:
            more = {"enable.idempotence": True, "message.timeout.ms": 0, "linger.ms": 2}
            try:
                self._producer = Producer({**self._configuration(), **more})
            except KafkaException as error:
                raise SinkUnavailable(f"{self.name}: {error.args[0].str()}") from error
        return self._producer

    def _configuration(self) -> dict[str, Any]:
        """Return the settings of librdkafka; each new client reads the password again."""
        http = self._options.http
        found: dict[str, Any] = {"bootstrap.servers": self._hosts, "log_level": 0, **self._given}
        if self._secure or self._user:
            found.setdefault(
                "security.protocol", ("SASL_" if self._user else "") + ("SSL" if self._secure else "PLAINTEXT")
            )
        if self._user:
            found.setdefault("sasl.mechanism", "PLAIN")
            found["sasl.username"] = self._user
            found["sasl.password"] = self._password()
        files = {
            "ssl.ca.location": http.ca_file,
            "ssl.certificate.location": http.cert_file,
            "ssl.key.location": http.key_file,
        }
        return {**found, **{name: path for name, path in files.items() if path is not None}}

    def _password(self) -> str:
        if self._options.password_file is None:
            return ""
        try:
            return read_secret(self._options.password_file, "", "password file")
        except ConfigError as error:
            raise SinkUnavailable(f"{self.name}: {error}") from error

    def _partitions(self, client: Any) -> list[int]:
        from confluent_kafka import KafkaException

        try:
            topic = client.list_topics(self._topic, timeout=self._options.timeout).topics[self._topic]
        except KafkaException as error:
            raise SinkUnavailable(f"{self.name}: {error.args[0].str()}") from error
        if topic.error is not None:
            hint = f"kafka-topics.sh --create --topic {self._topic}"
            raise SinkUnavailable(f"{self.name}: {topic.error.str()}", hint=hint)
        return sorted(topic.partitions)

    def _end(self, consumer: Any, partition: int) -> int:
        from confluent_kafka import KafkaException, TopicPartition

        try:
            _, end = consumer.get_watermark_offsets(TopicPartition(self._topic, partition), self._options.timeout)
        except KafkaException as error:
            raise SinkUnavailable(f"{self.name}: {error.args[0].str()}") from error
        return int(end)

    def _consumer(self) -> Any:
        from confluent_kafka import Consumer

        group = f"mqttkit-read-{uuid.uuid4().hex[:12]}"
        more = {"group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        return Consumer({**self._configuration(), **more})

    def _stored_since(self, ends: dict[str, int]) -> set[str]:
        """Return the identifiers of the messages that were stored after the given ends of partitions."""
        messages = self._messages({int(partition): end for partition, end in ends.items()})
        headers = [dict(message.headers() or ()) for message in messages]
        return {value.decode() for one in headers if isinstance(value := one.get(HEADER), bytes)}

    def _messages(self, starts: dict[int, int]) -> Iterator[Message]:
        """Yield the messages of each partition, from the given offset up to the present end."""
        from confluent_kafka import TopicPartition

        deadline = time.monotonic() + self._options.timeout
        with closing(self._consumer()) as consumer:
            ends = {partition: self._end(consumer, partition) for partition in self._partitions(consumer)}
            left = {partition: end for partition, end in ends.items() if end > starts.get(partition, 0)}
            consumer.assign([TopicPartition(self._topic, one, starts.get(one, 0)) for one in left])
            while left:
                if time.monotonic() > deadline:
                    raise SinkUnavailable(f"{self.name}: cannot read the topic within {self._options.timeout:g} s")
                message = consumer.poll(POLL_SECONDS)
                if message is None or message.error() is not None:
                    continue
                yield message
                if message.offset() + 1 >= left.get(message.partition(), 0):
                    left.pop(message.partition(), None)


def _line(metric: Metric) -> str:
    text = encode_json(json_record(metric)).decode()
    if len(text) > MAX_MESSAGE // 4 and len(text.encode()) > MAX_MESSAGE:
        raise SinkRefused(f"a message of {len(text.encode())} bytes, the limit is {MAX_MESSAGE}")
    unique = uuid.uuid4().hex if metric.dedupe_id is None else dedupe_key(metric)
    identifier = hashlib.sha256(unique.encode()).hexdigest()[:32]
    return f"{metric.tenant_id}/{metric.agent_id}\t{identifier}\t{text}"
