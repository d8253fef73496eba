"""Which messages a subscriber yields."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqttkit.messages import Message
from mqttkit.subscriber import ReadOptions, message_filter
from mqttkit.topics import matches
from tests.support.strategies import messages


def message(payload: bytes = b"", topic: str = "t", *, retain: bool = False) -> Message:
    """Return a message."""
    return Message(topic, payload, retain=retain)


filters = st.sampled_from(["a", "a/b", "a/#", "+/b", "#", "x/+", "é"])
names = st.sampled_from(["a", "a/b", "x/y", "$SYS/x", "é", "a/b/c"])
optionss = st.builds(
    ReadOptions,
    retained_only=st.booleans(),
    skip_retained=st.booleans(),
    exclude=st.lists(filters, max_size=2).map(tuple),
)


@given(optionss, st.lists(messages.flatmap(lambda each: names.map(lambda name: each._replace(topic=name)))))
def test_options_do_what_its_fields_say(options: ReadOptions, batch: list[Message]) -> None:
    """Each message is judged by itself, and the order is kept."""
    wanted = [
        each
        for each in batch
        if (each.retain or not options.retained_only)
        and not (each.retain and options.skip_retained)
        and not any(matches(exclude, each.topic) for exclude in options.exclude)
    ]
    assert list(message_filter(options)(batch)) == wanted


def test_exclusion_remembers_only_so_many_topics() -> None:
    """A million different topics are judged right, and forgotten."""
    chosen = message_filter(ReadOptions(exclude=("no/#",)))
    for start in range(0, 20_000, 1000):
        batch = [message(topic=f"{'no' if number % 2 else 'yes'}/{number}") for number in range(start, start + 1000)]
        assert [each.topic[:3] for each in chosen(batch)] == ["yes"] * 500
