"""What users' own tests need: `pytest_plugins = ["flopwatch.testing"]` in conftest.py brings `flopwatch_budget`."""

from flopwatch.testing.budgets import Budget, flopwatch_budget

__all__ = ["Budget", "flopwatch_budget"]
