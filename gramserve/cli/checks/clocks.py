"""Whether the clock of this machine and that of another agree."""

from __future__ import annotations

from gramserve.cli.checks.finding import Finding, Health

APART_S = 2.0
FAR_APART_S = 60.0


def judge_clock(name: str, ahead_s: float) -> Finding:
    """What to think of a clock that is `ahead_s` seconds ahead of that of this machine, or behind it (below 0)."""
    apart_s = abs(ahead_s)
    if apart_s < APART_S:
        return Finding(name, Health.OK, f"agrees with this machine's within {APART_S:.0f} s")
    found = f"{apart_s:.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    advice = "run an NTP client (chrony) on both: due times, certificates and tokens are judged by these clocks"
    return Finding(name, Health.FAILED if apart_s >= FAR_APART_S else Health.WARNING, found, advice)
