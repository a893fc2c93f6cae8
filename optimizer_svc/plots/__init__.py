"""The report's plots as inline SVG whose colours follow the page, light or dark."""

from optimizer_svc.plots.layers import sensitivity, widths
from optimizer_svc.plots.quality import confusion, reliability, review
from optimizer_svc.plots.search import pareto, recovery, shrunk, waterfall

__all__ = ["confusion", "pareto", "recovery", "reliability", "review", "sensitivity", "shrunk", "waterfall", "widths"]
