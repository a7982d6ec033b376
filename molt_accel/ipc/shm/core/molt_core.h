/* The shared-memory core: state words, byte rings, doorbells, and the waiting between them. C11, no Python, no allocation.
 *
 * Everything here works on memory that other processes write to. A peer's word is loaded once, checked, and then used; a
 * value that can't be is reported and never followed.
 *
 * Every hand-over is one compare-and-swap on a channel's state word; molt_accel/ipc/shm/layout.py has the table of who may
 * take which step. Doorbells only wake and guard nothing: a waiter notes a word, looks at the state, and sleeps only while
 * the word is what it noted, so no order of events loses a wake-up. Every sleep is bounded: where a ringer dies between
 * changing the word and ringing, its peer is late and doesn't hang.
 */
#pragma once

#include "client.h"
#include "executor.h"
#include "frame.h"
#include "msgpack.h"
