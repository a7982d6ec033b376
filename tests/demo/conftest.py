"""Sets Django up for the demo's tests, and serves what several of them share."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.django_app.settings")
django.setup()
