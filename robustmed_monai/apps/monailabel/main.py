"""What ``monailabel start_server --app`` looks for: a module ``main`` that holds the app's class."""

from __future__ import annotations

from robustmed_monai.apps.monailabel.label_app import RobustMedApp

__all__ = ["RobustMedApp"]
