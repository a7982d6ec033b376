"""molt_worker.bridge.settings: a bridge is used with whatever pool it names."""

from molt_accel.config import Config
from molt_worker.bridge.settings import BridgeConfig


def test_it_is_a_configuration_that_claims_to_be_like_nobody() -> None:
    config = BridgeConfig.load(worker_name="shop", nats_url="nats://x", environ={})
    assert isinstance(config, Config)
    assert config.pool_name == "shop"
    assert config.nats_url == "nats://x"
    assert config.identity() == {}
    assert Config.load(worker_name="shop").identity() != {}
