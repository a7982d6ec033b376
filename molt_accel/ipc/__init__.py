"""The floor both sides stand on: what travels between client and worker, and how bytes move."""
