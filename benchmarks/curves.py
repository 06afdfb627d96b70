"""The benchmark's curves as one small SVG: four panels, axes from zero, a point a measurement. No library draws it, so
that the figure is the same everywhere and reads as text in a diff."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT, MARGIN = 250, 150, 46
LABELS = {
    "rows": ("rows", "seconds an epoch"),
    "length": ("tokens a row", "1,000 tokens a second"),
    "batch size": ("rows a batch", "1,000 tokens a second"),
    "members": ("members", "seconds of the pass"),
}


def draw_curves(curves: dict[str, Sequence[tuple[float, float]]]) -> str:
    """A panel for each of `LABELS`, side by side."""
    panels = [
        _panel(
            [(x, y / 1000 if "1,000" in LABELS[name][1] else y) for x, y in points],
            x_label=LABELS[name][0],
            y_label=LABELS[name][1],
            left=i * (WIDTH + MARGIN),
        )
        for i, (name, points) in enumerate(curves.items())
    ]
    width, height = len(panels) * (WIDTH + MARGIN) + 20, HEIGHT + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="11" fill="#333"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(panels)
        + "\n</svg>\n"
    )


def _panel(points: Sequence[tuple[float, float]], *, x_label: str, y_label: str, left: int) -> str:
    x_max, y_max = max(x for x, _ in points), max(y for _, y in points) * 1.1
    x0, y0 = left + MARGIN, HEIGHT + MARGIN - 16
    w, h = WIDTH - MARGIN, HEIGHT

    def at(x: float, y: float) -> tuple[float, float]:
        return x0 + w * x / x_max, y0 - h * y / y_max

    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in (at(*point) for point in points))
    dots = "".join('<circle cx="{:.1f}" cy="{:.1f}" r="3"/>'.format(*at(*point)) for point in points)
    return (
        f'<path d="M{x0},{y0 - h}V{y0}H{x0 + w}" fill="none" stroke="#999"/>'
        f'<polyline points="{line}" fill="none" stroke="#4269d0" stroke-width="2"/><g fill="#4269d0">{dots}</g>'
        f'<text x="{x0 + w}" y="{y0 + 14}" text-anchor="end">{x_max:,.0f}</text><text x="{x0}" y="{y0 + 14}">0</text>'
        f'<text x="{x0 + w / 2}" y="{y0 + 28}" text-anchor="middle">{x_label}</text>'
        f'<text x="{x0 - 4}" y="{y0 - h + 10}" text-anchor="end">{y_max:,.3g}</text>'
        f'<text x="{x0}" y="{y0 - h - 8}">{y_label}</text>'
    )
