"""molt_worker.entrypoints.answers: results that are responses, and those that can't be sent."""

import datetime
from typing import Any

import pytest
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from rest_framework.response import Response as RestResponse

from molt_accel import codec
from molt_worker import Response
from molt_worker.entrypoints import answers


def sent(result: object) -> Any:
    data = answers.encoded(result)
    assert data is not None
    return codec.decode("msgpack", data)


@pytest.mark.parametrize("result", [None, {}, b"", "text", object()])
def test_other_results_are_none_of_its_business(result: object) -> None:
    assert answers.encoded(result) is None


def test_a_body_of_other_values_is_json() -> None:
    made = sent(Response({"at": datetime.date(2026, 1, 2)}, 201, {"A": "b"}))
    assert made.parts() == [b'{"at":"2026-01-02"}', 201, {"A": "b"}, "application/json", [], None]
    assert (
        sent(Response([], content_type="application/problem+json")).content_type == "application/problem+json"
    )


@pytest.mark.parametrize("body", ["text", b"bytes"])
def test_a_body_of_bytes_or_text_stays_as_it_is(body: Any) -> None:
    assert sent(Response(body)).parts() == [body, 200, {}, None, [], None]


def test_a_response_of_django_travels_whole(settings_of_a_project: None) -> None:
    made = JsonResponse({"a": 1}, status=202, reason="Later")
    made.set_cookie("seen", "a b", max_age=60)
    back = sent(made)
    assert (back.body, back.status, back.reason, back.headers) == (
        *(b'{"a": 1}', 202, "Later"),
        {"Content-Type": "application/json"},
    )
    assert back.cookies == [
        ["seen", "a b", '"a b"', {"max-age": "60", "path": "/", "expires": back.cookies[0][3]["expires"]}]
    ]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: StreamingHttpResponse([b"a"]), "is a StreamingHttpResponse, whose parts can't be sent"),
        (lambda: FileResponse(iter([b"a"])), "is a FileResponse, whose parts can't be sent"),
        (lambda: RestResponse({"a": 1}), "is a Response that can't be rendered here"),
        (
            lambda: Response({"a": object()}),
            r'is a Response whose body can\'t be encoded as json at body\["a"\]',
        ),
        (lambda: Response("\ud800"), "is a Response that can't be sent"),
    ],
    ids=["streaming", "file", "rest framework", "body", "surrogate"],
)
def test_what_cannot_be_sent_says_why(settings_of_a_project: None, make: Any, why: str) -> None:
    with pytest.raises(answers.NotSendable, match=why):
        answers.encoded(make())


@pytest.fixture
def settings_of_a_project() -> None:
    """Django's responses read settings."""
    from django.conf import settings

    if not settings.configured:
        settings.configure()
    assert HttpResponse().status_code == 200
