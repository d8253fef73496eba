"""A plot of rate and latency over time: SVG, or PNG if matplotlib is installed."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from mqttkit.bench.report.result import BenchResult, show
from mqttkit.errors import MissingPart, UsageError

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BETWEEN = 860, 190, 80, 20, 44, 40
SERIES = (("rate", "messages/s", (("rate", "#1f6feb"),)), ("latency", "ms", (("p50", "#2da44e"), ("p99", "#cf222e"))))


def check_plot(path: str) -> None:
    """Raise before the run if `write_plot` could not write this file."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".svg", ".png"):
        raise UsageError(f"--plot {path}: the name must end in .svg or .png")
    if not Path(path).absolute().parent.is_dir():
        raise UsageError(f"--plot {path}: no directory {Path(path).absolute().parent}")
    if suffix == ".png":
        try:
            import matplotlib  # noqa: F401  # checks that it is installed
        except ImportError as error:
            raise MissingPart(
                "a PNG needs matplotlib", hint="Try: pip install 'mqttkit[plot]', or --plot FILE.svg"
            ) from error


def write_plot(result: BenchResult, path: str) -> None:
    """Write the plot; raise UsageError if the file cannot be written."""
    try:
        if Path(path).suffix.lower() == ".svg":
            Path(path).write_text(svg(result), encoding="utf-8")
        else:
            _write_png(result, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def title(result: BenchResult) -> str:
    """Return the title of the plot."""
    plan = result.plan
    pace = f"{show(plan.rate)} messages/s" if plan.rate else "as fast as possible"
    return f"mqttkit bench {plan.scenario}: QoS {plan.qos}, {plan.size} bytes, {pace}"


def svg(result: BenchResult) -> str:
    """Return an SVG document with the rate above and the latencies below."""
    height = TOP + len(SERIES) * (HEIGHT + BETWEEN)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title(result))}</text>',
    ]
    seconds = [point["seconds"] for point in result.points]
    for index, (_, unit, lines) in enumerate(SERIES):
        parts += _panel(TOP + index * (HEIGHT + BETWEEN), seconds, result.points, unit, lines)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(
    top: float,
    seconds: Sequence[float],
    points: Sequence[dict[str, float]],
    unit: str,
    lines: Sequence[tuple[str, str]],
) -> list[str]:
    high = max((point[name] for point in points for name, _ in lines), default=0.0) * 1.05 or 1.0
    end = max(seconds, default=0.0) or 1.0
    right, bottom = WIDTH - RIGHT, top + HEIGHT
    found = [f'<path d="M{LEFT} {top}V{bottom}H{right}" fill="none" stroke="#57606a"/>']
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * HEIGHT
        found.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{show(high * share)}</text>')
        x = LEFT + share * (right - LEFT)
        found.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{show(end * share)} s</text>')
    for number, (name, colour) in enumerate(lines):
        path = " ".join(
            f"{LEFT + second / end * (right - LEFT):.1f},{bottom - point[name] / high * HEIGHT:.1f}"
            for second, point in zip(seconds, points, strict=True)
        )
        found.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        found.append(f'<text x="{right - 140 + number * 70}" y="{top + 12}" fill="{colour}">{name}, {unit}</text>')
    return found


def _write_png(result: BenchResult, path: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(SERIES), 1, sharex=True, figsize=(8.6, 5.0))
    seconds = [point["seconds"] for point in result.points]
    for axis, (_, unit, lines) in zip(axes, SERIES, strict=True):
        for name, colour in lines:
            axis.plot(seconds, [point[name] for point in result.points], color=colour, label=name)
        axis.set_ylabel(unit)
        axis.set_ylim(bottom=0)
        axis.legend(loc="upper right")
    axes[-1].set_xlabel("s")
    figure.suptitle(title(result))
    figure.savefig(path)
    pyplot.close(figure)
