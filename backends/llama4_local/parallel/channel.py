"""Messages between ranks: a JSON header, and the bytes of tensors behind it. One buffer travels for each."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    import socket

    from torch import Tensor

_LENGTHS = struct.Struct("!IQ")  # bytes of the header, and of the tensors


@dataclass(frozen=True, slots=True)
class Message:
    """A command to a rank, or its report.

    Args:
        kind: Its name.
        fields: JSON values.
        tensors: On the CPU.
    """

    kind: str
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    tensors: tuple[Tensor, ...] = ()

    def on(self, device: torch.device) -> Message:
        """Return it with its tensors on a device."""
        return replace(self, tensors=tuple(tensor.to(device) for tensor in self.tensors))


class Disconnected(Exception):
    """The other end is gone."""


def encode(message: Message) -> bytes:
    """Return a message's bytes, its lengths first."""
    shapes = [[str(t.dtype).removeprefix("torch."), list(t.shape)] for t in message.tensors]
    header = json.dumps([message.kind, message.fields, shapes]).encode()
    body = b"".join(_bytes(tensor) for tensor in message.tensors)
    return _LENGTHS.pack(len(header), len(body)) + header + body


def receive(connection: socket.socket) -> Message:
    """Wait for the next message.

    Raises:
        Disconnected: The other end is gone.
    """
    header_length, body_length = _LENGTHS.unpack(_exactly(connection, _LENGTHS.size))
    kind, fields, shapes = cast(
        "tuple[str, dict[str, Any], list[Any]]", json.loads(_exactly(connection, header_length))
    )
    return Message(kind, fields, _tensors(_exactly(connection, body_length), shapes))


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _tensors(body: bytearray, shapes: list[Any]) -> tuple[Tensor, ...]:
    tensors: list[Tensor] = []
    start = 0
    for name, shape in shapes:
        dtype = cast("torch.dtype", getattr(torch, name))
        count = prod(shape)
        flat = torch.frombuffer(body, dtype=torch.uint8, count=count * dtype.itemsize, offset=start) if count else None
        # A copy: tensors of other widths need not begin at a multiple of theirs.
        tensors.append(torch.empty(shape, dtype=dtype) if flat is None else flat.clone().view(dtype).reshape(shape))
        start += count * dtype.itemsize
    return tuple(tensors)


def _exactly(connection: socket.socket, count: int) -> bytearray:
    buffer = bytearray(count)
    view = memoryview(buffer)
    done = 0
    while done < count:
        try:
            received = connection.recv_into(view[done:])
        except ConnectionError:
            received = 0
        if received == 0:
            raise Disconnected
        done += received
    return buffer
