"""molt_worker.bridge.load: what a pool's reports say of its load."""

from molt_worker.bridge.load import REPORTS, Load, LoadMeter


def report(busy: int, size: int = 4, waiting: int = 0) -> dict[str, object]:
    return {"executors": {"size": size, "busy": busy}, "queue_depth": waiting}


def test_without_a_report_there_is_none() -> None:
    assert LoadMeter().load == Load(0, 0, 0, 0.0)


def test_the_busy_share_is_a_mean_and_the_rest_is_of_the_last_report() -> None:
    meter = LoadMeter()
    meter.take(report(4, waiting=9))
    meter.take(report(2, waiting=1))
    assert meter.load == Load(1, 2, 4, 0.75)


def test_old_reports_are_forgotten() -> None:
    meter = LoadMeter()
    meter.take(report(4))
    for _ in range(REPORTS):
        meter.take(report(0))
    assert meter.load.busy_share == 0.0


def test_more_busy_ones_than_there_shall_be_are_all_of_them() -> None:
    meter = LoadMeter()
    meter.take(report(3, size=2))  # one is being replaced
    assert meter.load.busy_share == 1.0
    meter.take(report(0, size=0))
    assert meter.load.executors == 0
