"""Add metrics to a Redis stream, or jobs to a Redis list. One script commits a whole batch or nothing.

Keys, all in one slot of a cluster. NAME is the stream or the list:

    NAME                   the entries, with one field per column; or the jobs
    NAME:notify            Laravel: one entry per job, which wakes workers; RQ has a hash per job instead
    {NAME}:ids:PERIOD      set of the keys stored in one dedupe window; the script checks the last two windows
    {NAME}:seen:PERIOD     the same from an earlier version, whose keys have no metric name; it expires
    {NAME}:retained        the last content of each series whose metrics have no dedupe_id; it does not expire
    {NAME}:last:SINK       the last batch of one sink and its result
    {NAME}:dead            dead letters, a stream
    {NAME}:live            exists while a bridge publishes live events

Commits are as durable as Redis: use `appendonly yes`, and `appendfsync always` to survive a power cut.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks.jobs import JobFormat, job_format
from mqttkit.bridge.sinks.redis_connection import Caller, connect_redis, redacted, translated
from mqttkit.bridge.sinks.types import Committed, DeadLetter, MetricBatch, SinkOptions, StoredLetter
from mqttkit.errors import BridgeError, SinkBroken, SinkUnavailable, UsageError

if TYPE_CHECKING:
    import redis

logger = logging.getLogger(__name__)

COMMIT = """
local call = redis.call
local data, last, dead, seen, earlier, kept = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local notify, contents = KEYS[7], cmsgpack.unpack(ARGV[10])
local rows, letters = cmsgpack.unpack(ARGV[1]), cmsgpack.unpack(ARGV[2])
local batch, window, limit = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local width, push, live = tonumber(ARGV[6]), ARGV[7], ARGV[8] == 'live'
local done = call('HMGET', last, 'batch', 'stored')
if done[1] == batch then
  call('EXPIRE', last, window)
  return tonumber(done[2])
end
if #letters > 0 and limit > 0 and call('XLEN', dead) >= limit then return -1 end
if #letters > 0 and (tonumber(redis.pcall('MEMORY', 'USAGE', dead)) or 0) >= tonumber(ARGV[11]) then return -1 end

local period = math.floor(call('TIME')[1] / window)
local now, before, past = seen .. period, seen .. period - 1, seen .. period - 2
local upgraded = call('EXISTS', earlier .. period, earlier .. period - 1) > 0
local keys, olds, known, fresh = {}, {}, {}, {}
for at = 1, #rows, width do
  if rows[at + 5] ~= '' then
    keys[#keys + 1] = rows[at] .. '/' .. rows[at + 1] .. '/' .. rows[at + 2] .. '/' .. rows[at + 5]
    if upgraded then olds[#olds + 1] = rows[at] .. '/' .. rows[at + 1] .. '/' .. rows[at + 5] end
  end
end
local function look(set, names)
  for first = 1, #names, 1000 do
    local to = math.min(first + 999, #names)
    local found = call('SMISMEMBER', set, unpack(names, first, to))
    for index = first, to do
      if found[index - first + 1] == 1 then known[keys[index]] = true end
    end
  end
end
look(now, keys)
look(before, keys)
if upgraded then
  look(earlier .. period, olds)
  look(earlier .. period - 1, olds)
end

local function replayed(at, content)
  local series = rows[at] .. '/' .. rows[at + 1] .. '/' .. rows[at + 2]
  local before = rows[at + 5] ~= '' and call('HGET', kept, series)
  if before == content then return true end
  call('HSET', kept, series, content)
  return false, before
end

local listeners = {}
local function says(line, ...)
  local answer = redis.pcall(...)
  return type(answer) == 'string' and string.find(answer, line, 1, true)
end
local elsewhere = live and not (says('connected_slaves:0', 'INFO', 'replication')
  and says('cluster_enabled:0', 'INFO', 'cluster') and redis.pcall('PUBSUB', 'NUMPAT') == 0)
local function listened(channel)
  if listeners[channel] == nil then
    local answer = redis.pcall('PUBSUB', 'NUMSUB', channel)
    listeners[channel] = elsewhere or answer[2] ~= 0
  end
  return listeners[channel]
end

local stored, turn = 0, 0
for at = 1, #rows, width do
  local tenant, agent, name, value, timestamp = rows[at], rows[at + 1], rows[at + 2], rows[at + 3], rows[at + 4]
  local dedupe, tags, received, key = rows[at + 5], rows[at + 6], rows[at + 7], nil
  if dedupe ~= '' then
    turn = turn + 1
    key = keys[turn]
  end
  local content, again, before = contents[(at - 1) / width], false, false
  if content then again, before = replayed(at, content) end
  if before then dedupe, key = '', nil end
  if not again and not (key and known[key]) then
    stored = stored + 1
    if key then
      known[key] = true
      fresh[#fresh + 1] = key
    end
    if push ~= '' then
      if rows[at + 9] ~= '' then
        local fields = {}
        for field, text in pairs(cjson.decode(rows[at + 9])) do
          fields[#fields + 1] = field
          fields[#fields + 1] = text
        end
        call('HSET', ARGV[9] .. rows[at + 8], unpack(fields))
      end
      call(push, data, rows[at + 8])
      if notify ~= data then call('RPUSH', notify, 1) end
    else
      call('XADD', data, '*', 'tenant_id', tenant, 'agent_id', agent, 'metric_name', name, 'value', value,
        'timestamp_ms', timestamp, 'dedupe_id', dedupe, 'tags', tags, 'received_ms', received)
    end
    if live and listened('metrics:' .. tenant) then
      call('PUBLISH', 'metrics:' .. tenant, '{"tenant_id":"' .. tenant .. '","agent_id":"' .. agent
        .. '","metric_name":"' .. name .. '","value":' .. value .. ',"timestamp_ms":' .. timestamp .. ',"dedupe_id":'
        .. (key and cjson.encode(dedupe) or 'null') .. ',"tags":' .. (tags == '' and 'null' or tags)
        .. ',"received_ms":' .. received .. '}')
    end
  end
end
for first = 1, #fresh, 1000 do call('SADD', now, unpack(fresh, first, math.min(first + 999, #fresh))) end
if call('TTL', now) == -1 then
  call('EXPIRE', now, 3 * window)
  call('UNLINK', past)
end

for _, l in ipairs(letters) do
  call('XADD', dead, '*', 'topic', l[1], 'payload', l[2], 'size', l[3], 'sha256', l[4], 'reason', l[5],
    'detail', l[6], 'received_ms', l[7])
end
for index = 12, #ARGV do call('XDEL', dead, ARGV[index]) end
call('HSET', last, 'batch', batch, 'stored', stored)
call('EXPIRE', last, window)
return stored
"""
"""Returns how many metrics were new. Returns -1 and changes nothing if there is no room for the dead letters.

The rows are one flat list, which unpacks faster than one list per row. The script publishes live events itself. It
skips them if this server has no subscriber and no replica or cluster node that would forward them.
"""

MEMORY_BYTES = 1_000_000_000
"""Bytes of all dead letters in Redis, by default."""
WAITAOF_SINCE = (7, 2)
SCANNED, SHOWN_KEYS = 1_000, 5
"""Keys that one SCAN looks at, and names of other stores that an error shows."""
ANNOUNCED_SECONDS = 3_600
"""How long workers assume that the bridge publishes live events."""

_pack = msgspec.msgpack.Encoder().encode


def tagged(name: str) -> str:
    """Return a prefix for keys in the same cluster slot as the key `name`."""
    return name if "{" in name else "{" + name + "}"


class RedisLetters:
    """Dead letters in a stream."""

    def __init__(self, client: redis.Redis, name: str, key: str) -> None:
        self._client: Any = client
        self._name = name
        self._key = key

    def count(self) -> int:
        """Return how many there are."""
        with translated(self._name):
            return int(self._client.xlen(self._key))

    def read(self, *, after: str = "", limit: int = 100) -> list[StoredLetter]:
        """Return letters in the order they were received, starting after the letter `after`."""
        with translated(self._name):
            entries = self._client.xrange(self._key, f"({after}" if after else "-", "+", count=limit)
        return [_letter(entry) for entry in entries]

    def get(self, letter_id: str) -> StoredLetter | None:
        """Return one letter."""
        parts = letter_id.split("-")
        if len(parts) != 2 or not all(part.isdigit() for part in parts):
            return None
        with translated(self._name):
            found = self._client.xrange(self._key, letter_id, letter_id)
        return _letter(found[0]) if found else None

    def remove(self, ids: Sequence[str]) -> int:
        """Remove letters; return how many were there."""
        with translated(self._name):
            return int(self._client.xdel(self._key, *ids)) if ids else 0


def _letter(entry: Any) -> StoredLetter:
    name, fields = entry
    return StoredLetter(
        name,
        DeadLetter(
            fields["topic"],
            fields["payload"],
            int(fields["size"]),
            fields["sha256"],
            fields["reason"],
            fields["detail"],
            int(fields["received_ms"]),
        ),
    )


class RedisSink:
    """A stream, or a list of jobs."""

    def __init__(self, address: str, options: SinkOptions) -> None:
        self.name = redacted(address)
        self._options = options
        self._limit = options.letter_limit(MEMORY_BYTES)
        self.target = self._data = options.list_name or options.stream
        self._base = tagged(self._data)
        self._jobs: JobFormat | None = None
        if options.list_name is not None:
            self._jobs = job_format(options.job_format, list_name=options.list_name, job=options.job)
        if options.durability != "server" and address.startswith("redis+cluster"):
            raise UsageError("--redis-durability does not work with a cluster", hint="Use one server or Sentinel")
        self._client: Any = connect_redis(address, timeout=options.timeout, password_file=options.password_file)
        self._caller = Caller(self._client)
        self._script = ""
        self._announced = time.monotonic()
        self._instance = uuid.uuid4().hex
        self._dead = f"{self._base}:dead"
        self.letters = RedisLetters(self._client, self.name, self._dead)

    def open(self) -> None:
        """Connect, load the script, and warn about settings with which Redis may lose data."""
        expected = "list" if self._options.list_name else "stream"
        with translated(self.name):
            for key, kind in ((self._data, expected), (self._dead, "stream")):
                found = self._client.type(key)
                if found not in ("none", kind):
                    raise SinkBroken(
                        f"{self.name}: key {key!r} is a {found}, not a {kind}", hint="Choose another: --stream"
                    )
            self._check_durability()
            if self._jobs is not None and self._jobs.registry is not None:
                self._client.sadd(*self._jobs.registry)
            self._script = self._client.script_load(COMMIT)
            self._announce()
        self._warn()

    def open_letters(self) -> None:
        """Raise UsageError if this server has dead letters, but none of this stream or list."""
        with translated(self.name):
            if self._client.exists(self._dead) or self._client.exists(self._data):
                return
            found = sorted(islice(self._client.scan_iter("*:dead", count=SCANNED, _type="stream"), SHOWN_KEYS))
            names = [key.removesuffix(":dead").removeprefix("{").removesuffix("}") for key in found]
            options = [f"--{'stream' if self._client.type(name) == 'stream' else 'list'} {name}" for name in names]
        if options:
            raise UsageError(f"{self.name} has no {self._data!r}", hint=f"It has dead letters of: {', '.join(options)}")

    def probe(self) -> None:
        """Write a key that expires soon."""
        with translated(self.name):
            self._client.set(f"{self._base}:probe", "1", ex=60)
            self._announce()

    def commit(self, batch: MetricBatch) -> Committed:
        """Run the script. If this batch was committed by an earlier attempt, return the result of that attempt."""
        if not self._script:
            self.open()
        arguments = [
            _pack([text for metric in batch.metrics for text in self._row(metric)]),
            _pack(batch.letters),
            batch.id,
            self._options.dedupe_window,
            self._limit.number,
            10 if self._jobs else 8,
            ("LPUSH" if self._jobs.left else "RPUSH") if self._jobs else "",
            "live" if self._options.live else "",
            self._jobs.hash_prefix if self._jobs else "",
            _pack(batch.contents),
            self._limit.size,
            *batch.settles,
        ]
        keys = [self._data, f"{self._base}:last:{self._instance}", self._dead]
        keys += [f"{self._base}:ids:", f"{self._base}:seen:", f"{self._base}:retained"]
        keys += [self._data + (self._jobs.notify if self._jobs else "")]
        with translated(self.name):
            if time.monotonic() - self._announced > ANNOUNCED_SECONDS / 4:
                self._announce()
            stored = self._run(keys, arguments)
            self._wait_until_durable()
        if stored < 0:
            raise self._limit.error(self.name)
        return Committed(stored, len(batch.metrics) - stored)

    def close(self) -> None:
        """Close the connections."""
        self._caller.release()
        self._client.close()

    def _run(self, keys: list[str], arguments: list[Any]) -> int:
        from redis.exceptions import NoScriptError

        try:
            return int(self._caller.call("EVALSHA", self._script, len(keys), *keys, *arguments))
        except NoScriptError:  # Redis was restarted
            return int(self._caller.call("EVAL", COMMIT, len(keys), *keys, *arguments))

    def _row(self, metric: Metric) -> tuple[str, ...]:
        """Return the script's arguments for a metric: its columns, and for a list the job."""
        tenant, agent, name, value, timestamp_ms, dedupe_id, tags, received_ms = metric
        columns = (tenant, agent, name, repr(value), str(timestamp_ms), dedupe_id or "", tags or "", str(received_ms))
        if self._jobs is None:
            return columns
        return (*columns, *self._jobs.make(metric, str(uuid.uuid4())))

    def _wait_until_durable(self) -> None:
        """Wait until a replica or the disk has the batch, as the settings ask; raise SinkUnavailable.

        WAIT and WAITAOF count the writes of this connection. The script writes at every attempt.
        """
        mode = self._options.durability
        if mode == "server":
            return
        patience = max(1, round(self._options.timeout * 500))
        if mode == "replica":
            if int(self._caller.call("WAIT", 1, patience)) < 1:
                raise SinkUnavailable(f"{self.name}: no replica had the batch after {patience} ms")
            return
        if int(self._caller.call("WAITAOF", 1, 0, patience)[0]) < 1:
            raise SinkUnavailable(f"{self.name}: the batch was not on disk after {patience} ms")

    def _check_durability(self) -> None:
        """Raise SinkBroken if the server cannot do what `--redis-durability` asks."""
        if self._options.durability != "fsync":
            return
        version = str(self._client.info("server")["redis_version"])
        if tuple(int(part) for part in version.split(".")[:2]) < WAITAOF_SINCE:
            text = f"{self.name}: Redis {version} does not have WAITAOF, which Redis 7.2 introduced"
            raise SinkBroken(text, hint="Set `appendfsync always` in Redis instead")
        if not self._client.info("persistence")["aof_enabled"]:
            text = f"{self.name} has no append-only file, so it never has a batch on disk"
            raise SinkBroken(text, hint="Set `appendonly yes` in Redis")

    def _announce(self) -> None:
        """Tell workers that the bridge publishes live events, so that they do not publish them again."""
        if self._options.live:
            self._client.set(f"{self._base}:live", "bridge", ex=ANNOUNCED_SECONDS)
            self._announced = time.monotonic()

    def _warn(self) -> None:
        try:
            with translated(self.name):
                found = self._client.config_get("appendonly", "appendfsync", "maxmemory-policy")
        except BridgeError as error:  # a managed Redis may forbid CONFIG
            logger.debug("cannot read the settings of %s: %s", self.name, error)
            return
        if found.get("appendonly") == "no":
            logger.warning("%s has no append-only file: a crash of Redis loses acknowledged metrics", self.name)
        elif found.get("appendfsync") != "always" and self._options.durability != "fsync":
            logger.warning(
                "%s acknowledges before it writes to disk (appendfsync %s): a power cut may lose acknowledged metrics. "
                "Set appendfsync always, or --redis-durability fsync (Redis 7.2)",
                self.name,
                found.get("appendfsync"),
            )
        policy = found.get("maxmemory-policy", "noeviction")
        if policy != "noeviction":  # the sets of dedupe_ids expire, so volatile-… evicts them first
            logger.warning("%s may evict stored metrics (maxmemory-policy %s): set it to noeviction", self.name, policy)
