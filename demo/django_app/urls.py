"""The demo's URLs: one for each way to run a handler core, and a health check."""

from django.urls import URLPattern, path

from demo.django_app import views
from demo.django_app.orders import views as orders

urlpatterns: list[URLPattern] = [
    path("baseline/", views.baseline),
    path("baseline-orjson/", views.baseline_orjson),
    path("process-pool/", views.in_process_pool),
    path("dirty-app/", views.in_dirty_app),
    path("light/", views.light),
    path("cost/baseline/", views.cost_baseline),
    path("cost/offload/", views.cost_offload),
    path("cost/offload-async/", views.cost_offload_async),
    path("cost/limited-async/", views.cost_limited_async),
    path("cost/low-async/", views.cost_low_async),
    path("cost/process-pool/", views.cost_in_process_pool),
    path("cost/process-pool-async/", views.cost_in_process_pool_async),
    path("cost/dirty-app/", views.cost_in_dirty_app),
    path("offload/", views.offload),
    path("offload-async/", views.offload_async),
    path("data/baseline/", views.data_baseline),
    path("data/offload/", views.data_offload),
    path("orders/baseline/", orders.Baseline.as_view()),
    path("orders/offload/", orders.Offload.as_view()),
    path("healthz", views.healthz),
]
