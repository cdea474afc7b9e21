"""What a MONAI bundle would run, told without running any of it."""

from robustmed_monai.audit.bundle import audit_bundle
from robustmed_monai.audit.verdicts import Finding, Report, Verdict

__all__ = ["Finding", "Report", "Verdict", "audit_bundle"]
