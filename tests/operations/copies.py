"""What must hold in every copy of a store: nothing that it has lacks what it needs."""

from __future__ import annotations

from gramserve.store import layout
from gramserve.store.audit_verify import verify
from gramserve.store.batches import BatchStore
from gramserve.store.objects import ObjectStore
from gramserve.store.records import SlideState
from gramserve.store.registry import Registry


async def faults(store: ObjectStore) -> list[str]:
    """Each thing that is wrong, as a sentence."""
    batches, wrong = BatchStore(store), []
    marked = {name async for name in batches.unfinished()}
    for laboratory in await store.folders("batches"):
        for batch in await store.folders(f"batches/{laboratory}"):
            record = await batches.get_batch(laboratory, batch)
            if record is None:
                wrong.append(f"{batch} has no batch.json")
                continue
            slides = [slide async for slide in batches.slides(laboratory, batch)]
            images = [layout.slide_path(laboratory, image.sha256) for slide in slides for image in slide.images]
            if None in [await store.size(path) for path in images]:
                wrong.append(f"{batch} lacks an image")
            number = await batches.current_round(laboratory, batch)
            rounds = map(int, await store.folders(f"{layout.batch_folder(laboratory, batch)}/results"))
            if max(rounds, default=0) > number:
                wrong.append(f"{batch} has outcomes of a retry that was never begun")
            finals = [await batches.final(laboratory, batch, one) for one in range(number + 1)]
            if None in finals[:-1]:
                wrong.append(f"{batch} has a retry of a round without end")
            if (finals[-1] is None) != ((laboratory, batch) in marked):
                wrong.append(f"{batch} is {'' if finals[-1] is None else 'not '}open and its marker says otherwise")
            outcomes = {outcome.index: outcome async for outcome in batches.outcomes(laboratory, batch)}
            for final in finals:
                if final is None:
                    continue
                letters = enumerate(final.slide_states)
                ran = {index for index, letter in letters if letter in (SlideState.SUCCEEDED.letter, "F")}
                if not ran <= outcomes.keys():
                    wrong.append(f"{batch} has ended and lacks outcomes of {sorted(ran - outcomes.keys())}")
                path = batches.output_path(laboratory, batch, final.round, "manifest.json")
                if final.manifest_digest and await store.size(path) is None:
                    wrong.append(f"{batch} has ended and lacks its output")
    wrong += await _models(store)
    try:
        await verify(store)
    except Exception as error:
        wrong.append(f"the audit record: {error}")
    return wrong


async def _models(store: ObjectStore) -> list[str]:
    registry, wrong = Registry(store), []
    for model in await store.folders("models"):
        versions = await registry.versions(model)
        async for info in store.list(f"models/{model}/aliases"):
            alias = info.path.rpartition("/")[2]
            record = await registry.alias(model, alias)
            if record is not None and record.version and record.version not in versions:
                wrong.append(f"{alias} of {model} stands for a version that is not there")
        for version in versions:
            manifest, _ = await registry.manifest(model, version)
            for name, file in manifest.files.items():
                if await store.size(f"{layout.version_folder(model, version)}/{name}") != file.bytes:
                    wrong.append(f"{name} of version {version} is not there")
    return wrong
