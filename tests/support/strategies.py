"""Hypothesis strategies for messages."""

from __future__ import annotations

from hypothesis import strategies as st

from mqttkit.messages import Message, Properties

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
payloads = st.one_of(st.binary(max_size=60), text.map(str.encode))
topics = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1, max_size=20),
    st.binary(min_size=1, max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
)
properties = st.builds(
    Properties,
    payload_format_indicator=st.none() | st.integers(0, 1),
    message_expiry_interval=st.none() | st.integers(0, 2**32 - 1),
    content_type=st.none() | text,
    response_topic=st.none() | text,
    correlation_data=st.none() | st.binary(max_size=20),
    user_properties=st.lists(st.tuples(text, text), max_size=3).map(tuple),
    subscription_identifiers=st.lists(st.integers(1, 268_435_455), max_size=2).map(tuple),
    topic_alias=st.none() | st.integers(1, 65_535),
)
messages = st.builds(
    Message,
    topic=topics,
    payload=payloads,
    qos=st.integers(0, 2),
    retain=st.booleans(),
    dup=st.booleans(),
    mid=st.just(0),
    epoch=st.just(0),
    properties=st.none() | properties,
)
