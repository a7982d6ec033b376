"""The test project's addresses. `offload/...` and `async/...` do the same in a sync and an async view."""

from django.urls import URLPattern, path

from tests.integration.django import views

urlpatterns: list[URLPattern] = [
    path("baseline/<int:number>/", views.baseline),
    path("offload/<int:number>/", views.offload),
    path("async/<int:number>/", views.offload_async),
    path("offload/pid/", views.executor_pid),
    path("async/pid/", views.executor_pid_async),
    path("offload/clean-up/", views.clean_up),
    path("async/clean-up/", views.clean_up_async),
    path("offload/wait/", views.wait_for_file),
    path("async/wait/", views.wait_for_file_async),
    path("offload/sleep/", views.sleep),
    path("second/sleep/", views.sleep_in_second),
    path("second/wait/", views.wait_in_second),
    path("offload/alone/", views.wait_alone),
    path("async/alone/", views.wait_alone_async),
    path("plain/wait/", views.plain_wait),
    path("processes/", views.processes),
]
