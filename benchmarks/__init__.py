"""Measurements and pictures that are made by hand: no test asserts a time, and nothing here is part of a run."""
