"""MONAI Label app that serves the bundles; ``docs/monai_label.md`` says how to install and start it.

Only ``methods``, ``server`` and ``demo`` can be imported without MONAI Label, which lives in an environment
of its own (extra ``label``).
"""
