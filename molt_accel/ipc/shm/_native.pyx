# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The binding of core/: it copies and waits without the GIL, and does nothing that Python could do itself.

The objects here hold raw memory of the arena. They check indexes; their callers decide what a word means.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap

# C variables, which cost less than names of the module. The tables have the member for each of 256 byte values, or None.
cdef object _Request, _Response, _Entry
cdef tuple _codecs, _statuses
from types import MemberDescriptorType

from molt_accel.ipc.frame import CODECS as _codecs, STATUSES as _statuses
from molt_accel.ipc.messages import Request as _Request, Response as _Response
from molt_accel.ipc.shm.layout import Entry as _Entry, Gauge as _Gauge

cdef uint32_t _client_limit = _Gauge.CLIENT_LIMIT

cdef enum:
    REMARK_UNBEGUN = 1
    REMARK_WAKES = 2
    REMARK_CROWDED = 4
    REPLY_BELLS_LOST = 16  # not one of enum molt_transfer

include "binding/places.pxi"
include "binding/fields.pxi"
include "binding/core.pxi"

MAX_CHANNELS, GAUGES, SLOT_GAUGES, BUCKETS = MOLT_MAX_CHANNELS, MOLT_GAUGES, MOLT_SLOT_GAUGES, MOLT_BUCKETS
#: The states of a channel, as layout.py names them.
STATES = (MOLT_IDLE, MOLT_READY, MOLT_CLAIMED, MOLT_DONE, MOLT_FAILED, MOLT_ABANDONED, MOLT_KILLING)
SLOT_FREE, SLOT_BUSY, SLOT_IDLE = MOLT_SLOT_FREE, MOLT_SLOT_BUSY, MOLT_SLOT_IDLE
OUTCOME, TIME, CLOSED = MOLT_AWAIT_OUTCOME, MOLT_AWAIT_TIME, MOLT_AWAIT_CLOSED
REQUEST, RETIRE = MOLT_NEXT_REQUEST, MOLT_NEXT_RETIRE
#: `Slot.remarks`.
UNBEGUN, WAKES, CROWDED = REMARK_UNBEGUN, REMARK_WAKES, REMARK_CROWDED
TRANSFERRED, LOST, STALLED = MOLT_TRANSFERRED, MOLT_TRANSFER_LOST, MOLT_TRANSFER_STALLED
#: What `Slot.reply` returns besides.
BELLS_LOST = REPLY_BELLS_LOST
#: Verdicts of `Channel.publish`.
ADMITTED, WAITING, BUSY, NOT_IDLE, BAD_FRAME, UNDECIDED = 0, 1, 2, 3, 4, 5
#: How many bells an arena has.
BELLS = MOLT_BELLS
#: How many entrypoints have a row at most.
ENTRIES = MOLT_ENTRIES - MOLT_ENTRIES // 4


cdef enum:
    _SMALL = 16384
    NO_CHANNEL = 0xffffffff
    # Of the threads of a process that wait, so many at most want to run at once: one has the GIL, others are just being woken.
    _COMPANY = 3


class Corrupt(RuntimeError):
    """Shared memory says something that no honest process writes."""


include "binding/heads.pxi"
include "binding/arena.pxi"
include "binding/channel.pxi"
include "binding/call.pxi"
include "binding/slot.pxi"


def has_timestamp(bytes data not None):
    """Whether one of msgpack's timestamps may begin somewhere in these bytes."""
    return molt_has_timestamp(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef class ParkMeter:
    """Measures what it costs to put a thread to sleep and wake it: two threads ring each other."""

    cdef molt_doorbell doorbells[2]

    def __cinit__(self):
        molt_doorbell_init(&self.doorbells[0])
        molt_doorbell_init(&self.doorbells[1])

    def run(self, int side, int rounds):
        """Ring and wait in turns, on two threads at once with sides 0 and 1. Returns nanoseconds for one way."""
        cdef molt_doorbell *mine = &self.doorbells[side & 1]
        cdef molt_doorbell *other = &self.doorbells[1 - (side & 1)]
        cdef uint64_t start_ns = molt_now_ns(), seen
        cdef int i
        with nogil:
            for i in range(rounds):
                if side == 0:
                    molt_doorbell_ring(other)
                seen = i
                while atomic_load(&mine.count) <= seen:
                    molt_park(mine, &mine.count, seen, molt_now_ns() + 10000000)
                if side == 1:
                    molt_doorbell_ring(other)
        return (molt_now_ns() - start_ns) // (2 * rounds if rounds > 0 else 1)
