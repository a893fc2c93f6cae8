"""The night report: what became of every slide that was accepted in one night, as one page for people."""

from __future__ import annotations
