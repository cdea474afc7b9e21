"""Errors, files, weights, bundle and provenance helpers."""
