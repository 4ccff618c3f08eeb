"""What users' own tests need: a fake device, and budgets on what a model costs.

`pytest_plugins = ["flopwatch.testing"]` in conftest.py brings `flopwatch_budget`.
"""

from flopwatch.testing.budgets import Budget, flopwatch_budget
from flopwatch.testing.device import FakeDevice

__all__ = ["Budget", "FakeDevice", "flopwatch_budget"]
