"""Whole tasks that bundles run: tables of results."""
