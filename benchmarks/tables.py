"""The figures of a run as tables, for the terminal and for docs/benchmarks.md alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Any]

OUR_ROLES = {"worker parent": "worker parent", "gateway": "gateway", "redis": "Redis"}
STAGES = ("fetch", "decode", "tile", "infer", "aggregate")


@dataclass(frozen=True, slots=True)
class Table:
    """A title, the names of the columns, and rows of text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(sections: Mapping[str, Figures]) -> list[Table]:
    """All tables of the sections that there are, by name {"measured", "figures"}; one that none knows is listed."""
    figures = {name: section["figures"] for name, section in sections.items()}
    made: list[Table] = []
    for name, of_section in figures.items():
        builder = BUILDERS.get(name)
        made += builder(of_section, figures) if builder else [_listed(name, of_section)]
    return made


def spread_text(values: Mapping[str, float], digits: int = 1) -> str:
    """Median and, where they differ, smallest and largest."""
    median, least, most = (f"{values[key]:,.{digits}f}" for key in ("median", "min", "max"))
    return median if least == most else f"{median} ({least} to {most})"


def _median(values: Mapping[str, float], digits: int = 1) -> str:
    return f"{values['median']:,.{digits}f}"


def _end_to_end(section: Figures, figures: Mapping[str, Figures]) -> Iterator[Table]:
    yield Table(
        "Slides from submission to the last result, beside the bare loop",
        ("slides", "slides/s", "tiles/s", "bare slides/s", "ratio", "engine"),
        [
            (
                name,
                _median(one["slides_per_s"]),
                _median(one["tiles_per_s"], 0),
                _median(one["bare_slides_per_s"]),
                spread_text(one["ratio_to_bare"], 2),
                ", ".join(one["engines"]),
            )
            for name, one in section.items()
        ],
    )
    roles = list(dict.fromkeys(role for one in section.values() for role in one["cpu_ms_per_slide"]))
    yield Table(
        "CPU of a slide, ms",
        ("slides", *roles, "all but children"),
        [
            (
                name,
                *(_median(one["cpu_ms_per_slide"].get(role, {"median": 0.0}), 2) for role in roles),
                spread_text(one["cpu_ms_outside_children"], 2),
            )
            for name, one in section.items()
        ],
    )
    for name, one in section.items():
        yield _stages(name, one, figures.get("limits", {}))


def stage_ms(one: Figures) -> dict[str, float]:
    """Milliseconds of a slide: the child's stages that the worker reports, the rest of the child, then CPU by role."""
    reported = {stage: one["stages_ms_per_slide"][stage]["median"] for stage in STAGES if _has(one, stage)}
    cpu = {role: values["median"] for role, values in one["cpu_ms_per_slide"].items()}
    rest = max(0.0, cpu.get("child", 0.0) - sum(reported.values()))
    return {**reported, "rest of the child": rest, **{title: cpu.get(role, 0.0) for role, title in OUR_ROLES.items()}}


def _has(one: Figures, stage: str) -> bool:
    return bool(one["stages_ms_per_slide"].get(stage, {}).get("median"))


def _stages(name: str, one: Figures, core: Figures) -> Table:
    best = {}
    if core:
        best["infer"] = one["tiles_per_slide"] * core["int8_limit_ms_per_tile"]
        if name in core["decoding"]:
            best["decode"] = core["decoding"][name]["opencv_ms"]
    stages = stage_ms(one)
    whole = sum(stages.values())
    return Table(
        f"Where the time of a slide goes: {name}",
        ("stage", "ms", "% of all", "core at its best, ms", "share of that"),
        [
            (
                stage,
                f"{ms:.3f}",
                f"{100 * ms / whole:.1f}",
                f"{best[stage]:.3f}" if stage in best else "",
                f"{best[stage] / ms:.2f}" if stage in best and ms else "",
            )
            for stage, ms in stages.items()
        ],
    )


def _scaling(section: Figures, _: Mapping[str, Figures]) -> Iterator[Table]:
    yield Table(
        "A child for each core over a single child",
        ("slides", "children", "slides/s", "over one child"),
        [
            (
                name,
                children,
                _median(rate),
                spread_text(ratio, 2) if (ratio := one["over_one_child"].get(children)) else "",
            )
            for name, one in section.items()
            for children, rate in one["slides_per_s"].items()
        ],
    )


def _limits(section: Figures, _: Mapping[str, Figures]) -> Iterator[Table]:
    network = section["network"]
    yield Table(
        "One core",
        ("", "", ""),
        [
            ("int8 peak, best matrix product", f"{section['int8_gops']['peak']:,.0f} GOPS", ""),
            ("copy, read and written", f"{section['copy_gb_per_s']:.1f} GB/s", ""),
            ("the network, one tile", f"{network['operations'] / 1e6:,.0f} M operations", "1"),
            ("at the int8 peak", f"{section['int8_limit_ms_per_tile']:.2f} ms", "1.00 of the peak"),
            ("moving each layer's output once", f"{section['bandwidth_limit_ms_per_tile']:.2f} ms", ""),
            *(
                (name, f"{_median(ms, 2)} ms a tile", f"{section['share_of_int8_peak'][name]:.2f} of the peak")
                for name, ms in section["inference_ms_per_tile"].items()
            ),
        ],
    )
    yield Table(
        "Decoding on one core",
        ("field", "megapixels", "reduction", "OpenCV alone, ms", "gramserve, ms"),
        [
            (
                name,
                f"{one['megapixels']:.2f}",
                str(one["reduction"]),
                f"{one['opencv_ms']:.2f}",
                f"{one['gramserve_ms']:.2f}",
            )
            for name, one in section["decoding"].items()
        ],
    )


def _field(section: Figures, _: Mapping[str, Figures]) -> Iterator[Table]:
    yield Table(
        f"A JPEG field of {section['width']} x {section['height']} pixels from bytes to call, one core",
        ("read as", "tiles", "path", "ms", "of it decoding", "times as fast as naive"),
        [
            (
                case,
                str(one["tiles"]),
                path,
                _median(ms),
                f"{one['decode_ms']:.1f}" if path in one["over_naive"] else "",
                f"{one['over_naive'][path]:.2f}" if path in one["over_naive"] else "",
            )
            for case, one in section["cases"].items()
            for path, ms in one["ms"].items()
        ],
    )


def _peers(section: Figures, _: Mapping[str, Figures]) -> Iterator[Table]:
    if "peers" not in section:
        yield _listed("peers", section)
        return
    versions = section["versions"]
    yield Table(
        "One uint8 tile a request over gRPC, same int8 model",
        ("server", "callers", "images/s", "p50, ms", "p99, ms", "CPU, ms an image", "memory, MiB"),
        [
            (
                f"{name} {versions.get(name, '')}".strip(),
                callers,
                spread_text(one["images_per_s"], 0),
                _median(one["p50_ms"]),
                _median(one["p99_ms"]),
                _median(one["cpu_ms_per_image"], 2),
                _median(one["memory_mib"], 0),
            )
            for name, by in section["peers"].items()
            for callers, one in by.items()
        ],
    )
    rows = [
        (ours, callers, title, spread_text(ratio, 2))
        for key, title in (("over_best_peer", "the best peer"), ("over_bare", "the bare server"))
        for ours, by in section.get(key, {}).items()
        for callers, ratio in by.items()
    ]
    rows += [(name, "", "left out", why) for name, why in section["left_out"].items()]
    yield Table("Images/s over", ("", "callers", "over", "ratio"), rows)


def _submit(section: Figures, _: Mapping[str, Figures]) -> Iterator[Table]:
    yield Table(
        "Accepted after, ms",
        ("slides", "inline", "by manifest"),
        [(count, _median(one["inline_ms"]), _median(one["manifest_ms"])) for count, one in section.items()],
    )


def _stat(section: Figures, _: Mapping[str, Figures]) -> Iterator[Table]:
    idle, loaded = section["idle_ms"], section["under_backlog_ms"]
    yield Table(
        f"A STAT slide while {section['backlog_slides']:,} routine slides wait, ms",
        ("of all calls", "idle", "under the backlog", "ratio, by rounds"),
        [
            (name, f"{ms:.1f}", f"{loaded[name]:.1f}", spread_text(ratio, 2) if ratio else "")
            for name, ms in idle.items()
            for ratio in (section.get(f"{name}_ratio"),)
        ],
    )
    if "stages_ms" in section:
        of_idle, of_loaded = section["stages_ms"]["idle"], section["stages_ms"]["under_backlog"]
        yield Table(
            "Where the time of a STAT slide goes, medians in ms",
            ("stage", "idle", "under the backlog"),
            [(stage, f"{ms:.1f}", f"{of_loaded[stage]:.1f}") for stage, ms in of_idle.items()],
        )


def _gateway_cost(section: Figures, _: Mapping[str, Figures]) -> Iterator[Table]:
    """CPU alone: the results file has every command of Redis too."""
    yield _listed("gateway cost, CPU ms a slide", {key: section[key] for key in ("cpu_ms", "create_cpu_ms")})


def _idle(section: Figures, _: Mapping[str, Figures]) -> Iterator[Table]:
    roles = sorted(section["memory_mib"])
    yield Table(
        "With nothing to do",
        ("", *roles, "all"),
        [
            ("% of a core", *_row(section["cpu"], roles, 100, 2)),
            ("MiB", *_row(section["memory_mib"], roles, 1, 0)),
        ],
    )


def _row(values: Mapping[str, float], roles: Sequence[str], factor: float, digits: int) -> list[str]:
    numbers = [factor * values.get(role, 0.0) for role in roles]
    return [f"{number:.{digits}f}" for number in (*numbers, sum(numbers))]


def _listed(name: str, section: Figures) -> Table:
    return Table(name.replace("_", " "), ("figure", "value"), list(_leaves(section)))


def _leaves(section: Figures, path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in section.items():
        name = f"{path}, {key}" if path else str(key)
        if isinstance(value, Mapping) and set(value) == {"median", "min", "max"}:
            yield name, spread_text(value, 2)
        elif isinstance(value, Mapping):
            yield from _leaves(value, name)
        else:
            yield name, f"{value:,.3f}" if isinstance(value, float) else str(value)


Builder = Callable[[Figures, Mapping[str, Figures]], Iterator[Table]]
BUILDERS: Mapping[str, Builder] = {
    "limits": _limits,
    "field": _field,
    "peers": _peers,
    "end_to_end": _end_to_end,
    "scaling": _scaling,
    "submit": _submit,
    "stat": _stat,
    "gateway_cost": _gateway_cost,
    "idle": _idle,
}
