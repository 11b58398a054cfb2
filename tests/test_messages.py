"""The text messages of a websocket, from a server that says each byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from residency.installation.messages import Messages

GREETING = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


def other_side(talk: Callable[[socket.socket], None]) -> int:
    """The port of a server that greets one client and then does `talk`."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, listening:
            connection.recv(4096)
            talk(connection)

    threading.Thread(target=serve, daemon=True).start()
    return int(listening.getsockname()[1])


def test_texts_come_whole_however_they_were_cut():
    long = b"x" * 70_000

    def talk(connection: socket.socket) -> None:
        parts = [
            GREETING + b"\x81\x05he",
            b"llo\x01\x02ab",
            b"\x80\x01c",
            b"\x82\x02\0\0",
            b"\x81\x7f" + len(long).to_bytes(8, "big") + long,
        ]
        for part in parts:
            connection.sendall(part)

    with Messages(other_side(talk), "/ws") as messages:
        assert [messages.next(5.0) for _ in range(3)] == ["hello", "abc", "x" * 70_000]
        with pytest.raises(ConnectionError, match="gone"):
            messages.next(5.0)


def test_a_ping_is_answered_and_silence_is_none():
    heard = []

    def talk(connection: socket.socket) -> None:
        connection.sendall(GREETING + b"\x89\x02hi")
        heard.append(connection.recv(64))
        connection.sendall(b"\x81\x02ok\x88\x00")

    with Messages(other_side(talk), "/ws") as messages:
        assert messages.next(5.0) == "ok"
        assert heard == [b"\x8a\x82\0\0\0\0hi"]
        with pytest.raises(ConnectionError, match="closed"):
            messages.next(5.0)


def test_silence_is_none_and_what_has_come_by_then_is_kept():
    half, done = threading.Event(), threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.sendall(GREETING + b"\x81\x04ha")
        half.wait()
        connection.sendall(b"lf")
        done.wait()

    with Messages(other_side(talk), "/ws") as messages:
        assert messages.next(0.05) is None
        half.set()
        assert messages.next(5.0) == "half"
        done.set()


def test_who_refuses_the_websocket_is_quoted():
    port = other_side(lambda connection: connection.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n"))
    with pytest.raises(ConnectionError, match="404 Not Found"):
        Messages(port, "/ws")
