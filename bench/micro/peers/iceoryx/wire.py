"""What both ends of the iceoryx2 peers share: node, services, and bytes in and out of loaned memory."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import iceoryx2  # type: ignore[import-untyped]

FIRST_SLICE = 4096
"""Bytes of the memory that is loaned at first; it grows by powers of two."""


@dataclass(frozen=True, slots=True)
class Services:
    """A node and the services it opened; the node has to be kept as long as they are."""

    node: Any
    calls: Any
    asked: Any
    answered: Any


def open_services(root: Path, prefix: str) -> Services:
    """Opens or creates the services, with files below `root` and shared memory named `prefix`."""
    iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
    config = iceoryx2.config.default()
    config.global_cfg.root_path = iceoryx2.Path.new(str(root))
    config.global_cfg.prefix = iceoryx2.FileName.new(prefix)
    node = (
        iceoryx2.NodeBuilder.new()
        .config(config)
        .signal_handling_mode(iceoryx2.SignalHandlingMode.Disabled)
        .create(iceoryx2.ServiceType.Ipc)
    )

    def service(name: str) -> Any:
        return node.service_builder(iceoryx2.ServiceName.new(name))

    octets = iceoryx2.Slice[ctypes.c_uint8]
    return Services(
        node=node,
        calls=service("echo").request_response(octets, octets).open_or_create(),
        asked=service("asked").event().open_or_create(),
        answered=service("answered").event().open_or_create(),
    )


def growing(builder: Any) -> Any:
    """A client or server port whose memory grows with what is loaned."""
    return (
        builder.initial_max_slice_len(FIRST_SLICE)
        .allocation_strategy(iceoryx2.AllocationStrategy.PowerOfTwo)
        .create()
    )


def filled(loan: Any, data: bytes) -> Any:
    """Loaned memory with these bytes, ready to be sent."""
    ctypes.memmove(loan.payload_ptr, data, len(data))
    return loan.assume_init()


def copied(loan: Any, source: Any) -> Any:
    """Loaned memory with the bytes of another message's payload, ready to be sent."""
    ctypes.memmove(loan.payload_ptr, source.as_ptr(), source.len())
    return loan.assume_init()


def view(message: Any) -> memoryview:
    """The bytes of a message where they lie, for as long as the message is kept."""
    return message.payload().as_memory_view()  # type: ignore[no-any-return]


def milliseconds(count: int) -> Any:
    """A duration as iceoryx2 wants it."""
    return iceoryx2.Duration.from_millis(count)
