"""The faults of :mod:`aiosmtpd.observers.faults`, for tests."""

from aiosmtpd.observers.faults import (
    Fault as Fault,
    FaultCount as FaultCount,
    Faults as Faults,
    faulty as faulty,
    parse_fault as parse_fault,
)

__all__ = ["Fault", "FaultCount", "Faults", "faulty", "parse_fault"]
