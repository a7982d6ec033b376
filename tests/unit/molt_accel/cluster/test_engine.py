"""molt_accel.cluster.engine: what the tests' own engine has is what one needs."""

from molt_accel.cluster.engine import Engine, Incoming
from tests.support.broker import Broker


def test_an_engine_is_what_has_these_methods() -> None:
    engine: Engine = Broker().engine()
    assert engine.new_inbox() != engine.new_inbox()
    assert Incoming("subject", b"", "").unheard is False
