"""The demo's addresses."""

from django.urls import URLPattern, path

from demo.django_app import views

urlpatterns: list[URLPattern] = [
    path("baseline/", views.baseline),
    path("offload/", views.offload),
    path("offload-async/", views.offload_async),
    path("data/baseline/", views.data_baseline),
    path("data/offload/", views.data_offload),
    path("healthz", views.healthz),
]
