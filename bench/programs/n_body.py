"""N-body: the outer planets' orbits by a symplectic integrator. Floating-point arithmetic on attributes."""

from __future__ import annotations

from math import pi, sqrt
from typing import Final

from molt_worker import current_request

_SOLAR_MASS: Final = 4 * pi * pi
_DAYS: Final = 365.24


class Body:
    """A mass with position and velocity."""

    __slots__ = ("mass", "vx", "vy", "vz", "x", "y", "z")

    def __init__(self, x: float, y: float, z: float, vx: float, vy: float, vz: float, mass: float) -> None:
        self.x = x
        self.y = y
        self.z = z
        self.vx = vx * _DAYS
        self.vy = vy * _DAYS
        self.vz = vz * _DAYS
        self.mass = mass * _SOLAR_MASS


def _solar_system() -> list[Body]:
    """Sun, Jupiter, Saturn, Uranus and Neptune, roughly where they are: distances in AU, speeds in AU a day."""
    return [
        Body(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        Body(4.84, -1.16, -0.10, 0.00166, 0.00770, -0.00007, 9.55e-4),
        Body(8.34, 4.12, -0.40, -0.00277, 0.00500, 0.00002, 2.86e-4),
        Body(12.89, -15.11, -0.22, 0.00296, 0.00238, -0.00003, 4.37e-5),
        Body(15.38, -25.92, 0.18, 0.00268, 0.00163, -0.00010, 5.15e-5),
    ]


def _advance(bodies: list[Body], dt: float) -> None:
    count = len(bodies)
    for i in range(count):
        one = bodies[i]
        for j in range(i + 1, count):
            other = bodies[j]
            dx = one.x - other.x
            dy = one.y - other.y
            dz = one.z - other.z
            square = dx * dx + dy * dy + dz * dz
            force = dt / (square * sqrt(square))
            one.vx -= dx * other.mass * force
            one.vy -= dy * other.mass * force
            one.vz -= dz * other.mass * force
            other.vx += dx * one.mass * force
            other.vy += dy * one.mass * force
            other.vz += dz * one.mass * force
    for body in bodies:
        body.x += dt * body.vx
        body.y += dt * body.vy
        body.z += dt * body.vz


def _energy(bodies: list[Body]) -> float:
    total = 0.0
    for i in range(len(bodies)):
        one = bodies[i]
        total += 0.5 * one.mass * (one.vx * one.vx + one.vy * one.vy + one.vz * one.vz)
        for j in range(i + 1, len(bodies)):
            other = bodies[j]
            dx = one.x - other.x
            dy = one.y - other.y
            dz = one.z - other.z
            total -= one.mass * other.mass / sqrt(dx * dx + dy * dy + dz * dz)
    return total


def n_body(steps: int) -> list[float]:
    """The system's energy before and after so many steps of a hundredth of a year."""
    request = current_request()
    bodies = _solar_system()
    before = _energy(bodies)
    for step in range(steps):
        if step % 256 == 0:
            request.check()
        _advance(bodies, 0.01)
    return [before, _energy(bodies)]
