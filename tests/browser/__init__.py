"""Tests that look at the dashboard through a real browser."""
