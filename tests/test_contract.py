"""The contract: commented, in step with its stubs and with the reasons in the code."""

from __future__ import annotations

import ast
import importlib.resources
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

from gramserve.errors import Reason
from gramserve.v1 import error_reason_pb2
from tests.sources import ROOT, modules
from tests.waiting import HANGS_S

PREFIX = "ERROR_REASON_"


def test_the_stubs_are_those_of_the_contract() -> None:
    command = [sys.executable, "protos/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_reasons_in_the_code_are_those_of_the_contract_in_its_order() -> None:
    names = [value.name for value in error_reason_pb2.ErrorReason.DESCRIPTOR.values]
    assert names[0] == f"{PREFIX}UNSPECIFIED"
    assert [name.removeprefix(PREFIX) for name in names[1:]] == [reason.value for reason in Reason]


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pb2.FileDescriptorSet:
    """All our proto files with their comments."""
    out = tmp_path_factory.mktemp("contract") / "contract.binpb"
    protos = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos/gramserve").rglob("*.proto"))
    google = Path(annotations_pb2.__file__).parents[2]
    bundled = importlib.resources.files("grpc_tools") / "_proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", f"-I{google}", f"-I{bundled}"]
    command += ["--include_source_info", f"--descriptor_set_out={out}", *protos]
    subprocess.run(command, check=True, timeout=HANGS_S)
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def _elements(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """Path in the source info and name of everything that wants a comment."""

    def of_message(message: Any, path: tuple[int, ...], name: str) -> Iterator[tuple[tuple[int, ...], str]]:
        if message.options.map_entry:
            return
        yield path, name
        optional = {field.oneof_index for field in message.field if field.proto3_optional}  # nobody wrote these oneofs
        for kind, items in ((2, message.field), (8, message.oneof_decl)):
            wanted = [(i, item) for i, item in enumerate(items) if kind == 2 or i not in optional]
            yield from (((*path, kind, i), f"{name}.{item.name}") for i, item in wanted)
        for i, nested in enumerate(message.nested_type):
            yield from of_message(nested, (*path, 3, i), f"{name}.{nested.name}")
        for i, enum in enumerate(message.enum_type):
            yield from of_enum(enum, (*path, 4, i), f"{name}.{enum.name}")

    def of_enum(enum: Any, path: tuple[int, ...], name: str) -> Iterator[tuple[tuple[int, ...], str]]:
        yield path, name
        yield from (((*path, 2, i), f"{name}.{value.name}") for i, value in enumerate(enum.value))

    for i, message in enumerate(file.message_type):
        yield from of_message(message, (4, i), message.name)
    for i, enum in enumerate(file.enum_type):
        yield from of_enum(enum, (5, i), enum.name)
    for i, service in enumerate(file.service):
        yield (6, i), service.name
        yield from (((6, i, 2, j), f"{service.name}.{method.name}") for j, method in enumerate(service.method))


def _comments(file: descriptor_pb2.FileDescriptorProto) -> dict[tuple[int, ...], str]:
    return {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}


def test_every_service_call_message_field_and_value_is_commented(contract: descriptor_pb2.FileDescriptorSet) -> None:
    silent = [
        f"{file.name}: {name}"
        for file in contract.file
        for path, name in _elements(file)
        if not _comments(file).get(path)
    ]
    assert silent == []
    assert sum(1 for file in contract.file for _ in _elements(file)) > 300


def test_every_comment_is_a_sentence_or_a_pattern(contract: descriptor_pb2.FileDescriptorSet) -> None:
    for file in contract.file:
        for path, name in _elements(file):
            comment = _comments(file)[path]
            assert comment.endswith((".", ")", "?")) or "/{" in comment, f"{file.name}: {name}: {comment}"


def test_every_call_says_how_it_may_be_repeated(contract: descriptor_pb2.FileDescriptorSet) -> None:
    """Reads have no side effects and say so; every create takes a request id."""
    messages = {m.name: m for file in contract.file for m in file.message_type}
    for file in contract.file:
        for service in file.service:
            for method in service.method:
                reads = method.name.startswith(("Get", "List", "Watch"))
                level = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
                assert (method.options.idempotency_level == level) is reads, method.name
                if method.name.startswith("Create"):
                    request = messages[method.input_type.rpartition(".")[2]]
                    assert "request_id" in {f.name for f in request.field}, method.name


def test_every_call_of_the_contract_is_answered_by_a_service() -> None:

    answered = {
        (ast.unparse(base).rpartition(".")[2].removesuffix("Servicer"), item.name)
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        for item in node.body
        if isinstance(item, ast.AsyncFunctionDef)
    }
    data = (ROOT / "protos/gramserve.binpb").read_bytes()
    missing = {
        (service.name, method.name)
        for file in descriptor_pb2.FileDescriptorSet.FromString(data).file
        if file.package == "gramserve.v1"
        for service in file.service
        for method in service.method
    } - answered
    assert missing == set()
