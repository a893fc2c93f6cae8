"""The search: cheap looks at every recipe and engine, validation of what is worth it, repairs, then the stopwatch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gramserve.store.manifest import EngineSettings
from optimizer_svc.candidates import FP32, Candidate, Workshop, engine_label, sound
from optimizer_svc.evaluate import EAGER, Logits, Trial, time_all, validate
from optimizer_svc.families import family_of
from optimizer_svc.findings import why_not
from optimizer_svc.ingest import Ingested
from optimizer_svc.latency import Latency
from optimizer_svc.networks import ORIGINAL, Network
from optimizer_svc.pace import Pace
from optimizer_svc.proxies import Proxy, look, promote
from optimizer_svc.quantization import recipes_for
from optimizer_svc.spec import OptimizationSpec, Stage, TrialRow
from optimizer_svc.steadiness import settle
from optimizer_svc.workspace import Kept, Workspace

# All recipes are tried on the narrowest network; on the others so many of those that came closest there.
LEADERS = 3
# So many pruned networks with an accepted int8 candidate are enough.
ENOUGH = 2
# What a network is quantized by when the time for that is over before it begins: seconds, where others take minutes.
QUICK = "int8_channel_core"
OUT_OF_TIME = "the budget was over before it could be tried"


@dataclass(frozen=True, slots=True)
class Found:
    """All trials of a search, measured where they were validated, and the checkpoint's speed in torch eager."""

    trials: tuple[Trial, ...]
    eager: Latency


class Search:
    """Successive halving over networks x recipes x engines (Jamieson and Talwalkar 2016): cheap looks first."""

    def __init__(
        self,
        reference: Logits,
        engines: tuple[EngineSettings, ...],
        spec: OptimizationSpec,
        ingested: Ingested,
        workspace: Workspace,
        pace: Pace,
    ) -> None:
        self._reference = reference
        self._spec = spec
        self._ingested = ingested
        self._workspace = workspace
        self._pace = pace
        self._engine = engines[0]
        self._workshop = Workshop(spec, ingested, workspace, engines, pace.should_stop)
        self._trials: dict[str, Trial] = {}
        family = family_of(ingested.checkpoint.model, spec.architecture)
        self.transformer = family.transformer
        self._recipes = spec.recipes or recipes_for(family.transformer, full_bias=family.full_bias)

    @property
    def workshop(self) -> Workshop:
        """What makes candidates for this search."""
        return self._workshop

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every candidate so far."""
        return tuple(self._trials.values())

    def explore(self, networks: Sequence[Network]) -> None:
        """Tries recipes and engines on networks, narrowest first, and validates what is worth it.

        When enough pruned networks have an int8 candidate that holds, or the time to quantize is over, wider ones are
        left out; the original never is.
        """
        recipes = self._recipes
        hold = 0
        for i, network in enumerate(sorted(networks, key=lambda network: network.macs)):
            if hold >= ENOUGH and network.name != ORIGINAL:
                continue
            if i > 0 and network.name != ORIGINAL and self._too_late(network):
                skipped = Candidate(network, FP32, self._engine, b"", failure="", exporter="", parity=0.0)
                self._note(Trial(skipped, None, None, None, note=OUT_OF_TIME))
                continue
            self._pace.say(Stage.EXPORT, f"Exporting the {network.name} network to ONNX", i / len(networks))
            fp32 = self._workshop.fp32(network)
            proxies = self.try_recipes(fp32, recipes, i / len(networks), 1 / len(networks))
            if i == 0 and not self._spec.recipes:
                recipes = _leaders(proxies) or recipes
            hold += self._holds(network)

    def try_recipes(
        self, fp32: tuple[Candidate, ...], recipes: Sequence[str], begin: float = 0.0, share: float = 1.0
    ) -> list[Proxy]:
        """One network by `recipes`: quantized, looked at, and validated where that is worth it."""
        network = fp32[0].network
        made = list(fp32)
        for recipe in self._affordable(fp32[0], recipes, begin, share):
            made += self._workshop.int8(fp32[0], recipe, transformer=self.transformer)
        for candidate in made:
            if candidate.failure:
                self._note(Trial(candidate, None, None, None))
        self._pace.say(Stage.QUANTIZE, f"Looking at {len(made)} candidates of the {network.name} network")
        proxies = look(fp32[0], list(sound(tuple(made))), self._ingested, self._workspace, self._pace, self._spec.seed)
        kept, dropped = promote(proxies)
        for proxy in proxies:
            if note := dropped.get(proxy.candidate.name):
                self._note(Trial(proxy.candidate, None, None, None, proxy.snr_db, proxy.latency, note))
        for proxy in sorted(kept, key=lambda p: p.latency.median_s):
            self.validate(proxy)
        return proxies

    def validate(self, proxy: Proxy) -> Trial:
        """Reads the val tiles with a candidate and compares it with the checkpoint."""
        candidate = proxy.candidate
        self._pace.say(Stage.MEASURE, f"Reading the val tiles with {candidate.name}")
        logits, comparison = validate(candidate, self._reference, self._spec, self._ingested, self._workspace)
        trial = Trial(candidate, logits, comparison, None, proxy.snr_db, proxy.latency)
        self._note(trial)
        return trial

    def measure(self) -> Found:
        """Times every validated candidate, and the checkpoint, in one run."""
        read = [trial.candidate for trial in self.trials if trial.comparison is not None]
        self._pace.say(Stage.MEASURE, f"Timing {len(read)} candidates and the checkpoint on one thread", 0.5)
        speeds = time_all(read, self._spec, self._ingested, self._workspace, self._pace)
        for name, trial in self._trials.items():
            if name in speeds:
                self._trials[name] = replace(trial, latency=speeds[name])
                self._pace.tell(_row(self._trials[name], self._spec))
        return Found(self.trials, speeds[EAGER])

    def _holds(self, network: Network) -> bool:
        """Whether an int8 candidate of the network is accepted, on turned tiles as well."""
        own = [t for t in self.trials if t.candidate.network.name == network.name and t.candidate.quantization]
        settled = settle(own, self._spec, self._ingested, self._workspace, self._pace)
        for before, after in zip(own, settled, strict=True):
            if after is not before:
                self._note(after)
        return any(trial.accepted for trial in settled)

    def _too_late(self, network: Network) -> bool:
        """Whether the time to quantize is over; kept, so that a run that goes on decides the same."""
        key = {**self._ingested.identity, "network": network.digest, "budget_minutes": self._spec.budget_minutes}
        late = self._workspace.once("late", key, lambda: Kept({"late": self._pace.quantizes_no_more}, {}))
        return bool(late.facts["late"])

    def _affordable(self, fp32: Candidate, recipes: Sequence[str], begin: float, share: float) -> list[str]:
        """The recipes that there is time for, else a quick one; kept, so that a run that goes on decides the same."""
        network = fp32.network
        key = {**self._ingested.identity, "network": network.digest, "recipes": list(recipes)}
        key["budget_minutes"] = self._spec.budget_minutes

        def works(recipe: str) -> bool:
            text = f"Quantizing the {network.name} network: {recipe}"
            self._pace.say(Stage.QUANTIZE, text, begin + share * recipes.index(recipe) / len(recipes))
            return any(sound(self._workshop.int8(fp32, recipe, transformer=self.transformer)))

        def make() -> Kept:
            quick = QUICK if QUICK in recipes else recipes[0]
            wanted = [quick] if self._pace.quantizes_no_more else recipes
            return Kept({"tried": tried_in_time(wanted, works, self._pace)}, {})

        tried: list[str] = self._workspace.once("tried", key, make).facts["tried"]
        for recipe in recipes:
            if recipe not in tried:
                skipped = replace(fp32, recipe=recipe, model=b"", title=recipe)
                self._note(Trial(skipped, None, None, None, note=OUT_OF_TIME))
        return tried

    def _note(self, trial: Trial) -> None:
        self._trials[trial.candidate.name] = trial
        self._pace.tell(_row(trial, self._spec))


def tried_in_time(recipes: Sequence[str], works: Callable[[str], bool], pace: Pace) -> list[str]:
    """Those of `recipes`, in their order, that were tried while there was time, at least one.

    While none has worked it goes on for as long as repairs may take: an int8 network too late is better than none.
    """
    tried: list[str] = []
    worked = False
    for recipe in recipes:
        if tried and pace.clock() > (pace.quantize_deadline if worked else pace.repair_deadline):
            break
        worked = works(recipe) or worked
        tried.append(recipe)
    return tried


def _leaders(proxies: Sequence[Proxy]) -> tuple[str, ...]:
    """The recipes to try on the other networks: the closest ones and the fastest, each once."""
    int8 = [proxy for proxy in proxies if proxy.candidate.recipe != FP32]
    if not int8:
        return ()
    closest = sorted(int8, key=lambda proxy: -proxy.snr_db)
    fastest = min(int8, key=lambda proxy: proxy.latency.median_s)
    names = dict.fromkeys(proxy.candidate.recipe for proxy in closest)
    chosen = [*list(names)[:LEADERS], fastest.candidate.recipe]
    return tuple(dict.fromkeys(chosen))


def _row(trial: Trial, spec: OptimizationSpec) -> TrialRow:
    candidate = trial.candidate
    speed = trial.latency or trial.proxy
    read = "ACCEPTED" if trial.accepted else "REFUSED"
    return TrialRow(
        name=candidate.name,
        network=candidate.network.name,
        recipe=candidate.recipe,
        engine=engine_label(candidate.engine),
        images_per_s=round(speed.images_per_s, 1) if speed else None,
        accuracy=trial.comparison.accuracy if trial.comparison else None,
        size_bytes=len(candidate.model),
        state="DROPPED" if trial.comparison is None else read,
        note=why_not(trial, spec.labels),
    )
