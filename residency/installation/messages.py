"""The text messages of a websocket on this machine, with nothing but the standard library: the bench runs where ComfyUI's Python is bare.

RFC 6455, the client's side, as far as ComfyUI's server goes: no extensions, no TLS.
"""

from __future__ import annotations

import base64
import os
import socket
import struct

_TEXT, _CONTINUED, _CLOSE, _PING, _PONG = 1, 0, 8, 9, 10


class Messages:
    """One connection. Use as a context manager. Raises OSError when it cannot be made or is closed by the other side."""

    def __init__(self, port: int, path: str, timeout_s: float = 30.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._read = bytearray()
        self._parts = bytearray()
        key = base64.b64encode(os.urandom(16)).decode()
        head = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade"]
        head += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        self._socket.sendall("\r\n".join(head).encode())
        while b"\r\n\r\n" not in self._read:
            self._fill()
        answer, _, rest = bytes(self._read).partition(b"\r\n\r\n")
        if b" 101 " not in answer.split(b"\r\n", 1)[0]:
            raise ConnectionError(f"no websocket at {path}: {answer.decode(errors='replace')[:200]}")
        self._read = bytearray(rest)

    def __enter__(self) -> Messages:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def next(self, timeout_s: float) -> str | None:
        """The next text; None when none has come in time. The part that has come by then is kept."""
        self._socket.settimeout(timeout_s)
        while True:
            frame = self._frame()
            if frame is None:
                try:
                    self._fill()
                except TimeoutError:
                    return None
                continue
            final, kind, payload = frame
            if kind == _PING:
                self._send(_PONG, payload)
            elif kind == _CLOSE:
                raise ConnectionError("the server closed the websocket")
            elif kind in (_TEXT, _CONTINUED):
                self._parts += payload
                if final:
                    text, self._parts = self._parts.decode(errors="replace"), bytearray()
                    return text

    def _fill(self) -> None:
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the server is gone")
        self._read += data

    def _frame(self) -> tuple[bool, int, bytes] | None:
        """The first frame (final, kind, payload) of the bytes read; None while it is not whole. Servers do not mask."""
        read = self._read
        if len(read) < 2:
            return None
        length, start = read[1] & 0x7F, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            if len(read) < start:
                return None
            (length,) = struct.unpack_from(">H" if length == 126 else ">Q", read, 2)
        if len(read) < start + length:
            return None
        frame = bool(read[0] & 0x80), read[0] & 0x0F, bytes(read[start : start + length])
        del read[: start + length]
        return frame

    def _send(self, kind: int, payload: bytes) -> None:
        """A control frame: at most 125 bytes, masked as clients must; a mask of zeros leaves the payload as it is."""
        self._socket.sendall(bytes([0x80 | kind, 0x80 | len(payload)]) + b"\0\0\0\0" + payload)
