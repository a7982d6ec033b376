"""The Celery application, for its worker and for its caller."""

from __future__ import annotations

import os

from celery import Celery

from bench.cluster.names import REDIS_VARIABLE

app = Celery("bench", broker=os.environ[REDIS_VARIABLE], backend=os.environ[REDIS_VARIABLE])
app.conf.broker_connection_retry_on_startup = True


def _echo(value: object) -> object:
    return value


echo = app.task(name="echo")(_echo)
