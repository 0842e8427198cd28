"""Spending less in the vision tower: windows in one call, and positions or tokens that are encoded once."""
