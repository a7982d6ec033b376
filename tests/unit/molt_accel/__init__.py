"""Tests of the client library, one file a module."""
