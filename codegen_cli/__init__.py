"""Run Salesforce CodeGen models on an ordinary CPU."""

__version__ = "0.1.0"
