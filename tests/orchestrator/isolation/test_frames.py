"""The message format: strict JSON, bounded, whole or not at all."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.isolation.frames import Channel, FrameError, encode, plain_json, read_frame, wait, write_frame
from orchestrator.isolation.output import TAIL_BYTES, OutputTail

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


@given(messages=st.lists(st.dictionaries(st.text(), JSON, max_size=3), min_size=1, max_size=4), cut=st.integers(1, 40))
def test_messages_arrive_whole_however_they_are_cut(messages: list[dict[str, Any]], cut: int) -> None:
    left, right = socket.socketpair()
    with left, right:
        channel = Channel(right)
        data = b"".join(encode(message) for message in messages)
        received = []
        for start in range(0, len(data), cut):
            left.sendall(data[start : start + cut])
            received += channel.pull()
        assert received == messages
        assert not channel.closed


@pytest.mark.parametrize("value", [{1}, float("nan"), float("inf"), object(), b"bytes", "\udcff"])
def test_what_is_not_strict_json_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        plain_json({"value": value})


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", 2**31) + b"x",
        struct.pack(">I", 3) + b"no!",
        struct.pack(">I", 2) + b"[]",
        struct.pack(">I", 100_000) + b"[" * 100_000,
    ],
)
def test_a_reader_refuses_what_is_too_large_or_no_message(
    pair: tuple[socket.socket, socket.socket], data: bytes
) -> None:
    channel = Channel(pair[1], max_bytes=1 << 20)
    pair[0].sendall(data)
    with pytest.raises(FrameError):
        channel.pull()


def test_a_writer_keeps_what_the_peer_does_not_take_yet(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = Channel(pair[0]), Channel(pair[1], max_bytes=8 << 20)
    message = {"data": "x" * (4 << 20)}
    sender.post(message)
    assert sender.unsent
    received: list[dict[str, Any]] = []
    for _ in range(1000):
        received += receiver.pull()
        sender.flush()
    assert received == [message]
    assert wait([receiver], 0, [sender]) == []


def test_last_words_are_read_before_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    channel = Channel(pair[1])
    write_frame(pair[0], {"last": "words"})
    pair[0].close()
    assert channel.pull() == [{"last": "words"}]
    assert channel.closed
    channel.post({"to": "nobody"})
    assert not channel.unsent


def test_a_blocking_reader_reports_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    write_frame(pair[0], {"n": 1})
    pair[0].sendall(json.dumps({"half": 1}).encode()[:3])
    pair[0].close()
    assert read_frame(pair[1]) == {"n": 1}
    with pytest.raises(EOFError):
        read_frame(pair[1])


def test_the_tail_is_bounded_and_says_what_is_missing() -> None:
    reader, writer = os.pipe()
    tail = OutputTail(reader)
    for _ in range(10):
        os.write(writer, b"a" * 8_000)
        tail.pull()
    os.write(writer, "\0 end ü\n".encode())
    os.close(writer)
    tail.pull()
    text = tail.text()
    tail.close()
    assert text.startswith("[71817 bytes before this left out]\n")
    assert text.endswith("\ufffd end ü")
    assert len(text) <= TAIL_BYTES + 60
