"""Where everything lies in the store; docs/store.md says who writes it and when."""

from __future__ import annotations

from gramserve.store.paths import check_sha256


def slide_path(laboratory: str, sha256: str) -> str:
    """The bytes of an image. Scoped by laboratory: knowing a digest is not a right to read it."""
    return f"slides/{laboratory}/{check_sha256(sha256)}"


def tombstone_path(laboratory: str, batch: str) -> str:
    """What is left of a batch that was purged."""
    return f"tombstones/{laboratory}/{batch}.json"


def condemned_path(path: str) -> str:
    """The mark of an image that nothing refers to any more."""
    return f"condemned/{path}"


def checkpoint_path(sha256: str) -> str:
    """An optimizer input: a checkpoint or an archive of data."""
    return f"checkpoints/{check_sha256(sha256)}"


def upload_folder(scope: str, sha256: str) -> str:
    """The parts of an unfinished upload; `scope` is a laboratory's id or "optimizer"."""
    return f"uploads/{scope}/{check_sha256(sha256)}"


def request_path(laboratory: str, request_id: str) -> str:
    """The batch that a request id made."""
    return f"requests/{laboratory}/{request_id}"


def open_path(laboratory: str, batch: str, number: int) -> str:
    """The marker of a round that may have no end yet; flat, so that finished batches leave no folder behind."""
    return f"open/{laboratory}/{batch}.{number}"


def batch_folder(laboratory: str, batch: str) -> str:
    """Everything else about a batch."""
    return f"batches/{laboratory}/{batch}"


def batch_path(laboratory: str, batch: str) -> str:
    """The batch as it was accepted."""
    return f"{batch_folder(laboratory, batch)}/batch.json"


def chunk_path(laboratory: str, batch: str, chunk: int) -> str:
    """A thousand slides of the manifest."""
    return f"{batch_folder(laboratory, batch)}/manifest/{chunk:05d}.jsonl"


def outcome_folder(laboratory: str, batch: str, number: int) -> str:
    """The outcomes of round `number`."""
    return f"{batch_folder(laboratory, batch)}/results/{number}"


def outcome_path(laboratory: str, batch: str, number: int, index: int) -> str:
    """The one outcome of a slide in round `number`; names sort by index."""
    return f"{outcome_folder(laboratory, batch, number)}/{index:06d}.json"


def reuse_path(laboratory: str, key: str) -> str:
    """The outcome of a slide for later slides of the same pixels; `key` is from `gramserve.store.reuse`."""
    return f"reuse/{laboratory}/{check_sha256(key)}"


def round_path(laboratory: str, batch: str, number: int) -> str:
    """The retry `number`, from 1 on."""
    return f"{batch_folder(laboratory, batch)}/rounds/{number}.json"


def stop_path(laboratory: str, batch: str, number: int) -> str:
    """Why round `number` stops early."""
    return f"{batch_folder(laboratory, batch)}/stops/{number}.json"


def final_path(laboratory: str, batch: str, number: int) -> str:
    """The end of round `number`."""
    return f"{batch_folder(laboratory, batch)}/final/{number}.json"


def output_folder(laboratory: str, batch: str, number: int) -> str:
    """The files that are delivered for round `number`."""
    return f"{batch_folder(laboratory, batch)}/output/{number}"


def version_folder(model: str, version: int) -> str:
    """The files of an artifact; "reserved" takes the number, manifest.json makes the version visible."""
    return f"models/{model}/versions/{version}"


def shadow_folder(model: str, production: int, candidate: int) -> str:
    """What came out of running the version `candidate` beside `production`: one object of each worker."""
    return f"models/{model}/shadow/{production}-{candidate}"


def alias_path(model: str, alias: str) -> str:
    """What a movable name stands for: the only kind of object that is replaced."""
    return f"models/{model}/aliases/{alias}"
