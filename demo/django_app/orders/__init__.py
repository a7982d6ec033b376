"""The second example: an app with models, a view of Django REST framework and an entrypoint that asks the database."""
