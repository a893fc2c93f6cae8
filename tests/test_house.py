"""The rules of the house, held against every file of it."""

from __future__ import annotations

import ast
import importlib
import json
import re
import statistics
import subprocess
import sys

import pytest

from tests.sources import PACKAGES, ROOT, Module, modules, python_files, tracked
from tests.waiting import HANGS_S

_FOUNDATION = ("errors", "calls", "settings", "log", "metrics", "output_file", "access", "tls", "tracing")
FOUNDATION = {f"gramserve.{name}" for name in _FOUNDATION}
STUBS = {"gramserve.v1", "gramserve.oip"}
SHARED = {f"gramserve.{name}" for name in ("queue", "store", "images", "runtime", "rpc", "sandbox")}

# Who may import whom, beside itself; whatever stands here imports the stubs and the foundation too.
MAY_IMPORT: dict[str, set[str]] = {
    "gramserve": set(),
    **{name: set() for name in FOUNDATION},
    "gramserve.queue": set(),
    "gramserve.store": set(),
    "gramserve.rpc": set(),
    "gramserve.sandbox": set(),
    "gramserve.images": {"gramserve.store"},
    "gramserve.runtime": {"gramserve.store", "gramserve.images"},
    "gramserve.samples": {"gramserve.store"},
    "gramserve.client": {"gramserve.rpc"},
    "gramserve.night": {"gramserve.store", "gramserve.images", "gramserve.sandbox"},
    "gramserve.local": {"gramserve.client", "gramserve.queue", "gramserve.rpc", "gramserve.store"},
    "gramserve.cli": {"gramserve.client", "gramserve.local", "gramserve.night", "gramserve.samples", *SHARED},
    "gateway": SHARED - {"gramserve.runtime"},
    "inference_svc": SHARED,
    "optimizer_svc": SHARED | {"gramserve.samples"},  # golden vectors are of synthetic tiles: no patient's pixels
}
# These work in their own process, at the keyboard of an engineer; they load the optimizer when they are run.
EXCEPTIONS = {
    ("gramserve.cli.finetune", "optimizer_svc"),
    ("gramserve.cli.study", "optimizer_svc"),
    ("gramserve.cli.checks.machine", "inference_svc"),  # the doctor counts CPUs and memory as the worker does
    *(("gramserve.cli.checks.services", service) for service in ("gateway", "inference_svc", "optimizer_svc")),
}

# What computes stays out of processes that do not: they start in a moment and their images stay small.
HEAVY = {"numpy", "cv2", "onnxruntime", "onnx", "torch", "timm", "scipy", "matplotlib", "openvino"}
LIGHT = [
    "gateway.__main__",
    "optimizer_svc.__main__",
    "inference_svc.__main__",
    "gramserve.cli",
    "gramserve.client",
    "gramserve.local",
    "gramserve.night.__main__",
    "gramserve.queue",
    "gramserve.rpc.server",
    "gramserve.rpc.channel",
    "gramserve.store.batches",
    "gramserve.store.registry",
    "gramserve.store.uploads",
]
# Where commands are put together, as typer wants it.
REGISTERS = {"gramserve.cli", "gramserve.cli.app"}
REPORTING = {"nncf", "openvino", "openvino_telemetry"}
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


def _place(name: str) -> str:
    """The part of the house that a module belongs to."""
    parts = name.split(".")
    return parts[0] if parts[0] != "gramserve" or len(parts) == 1 else ".".join(parts[:2])


def test_imports_point_one_way() -> None:
    wrong = []
    for module in modules():
        here = _place(module.name)
        assert here in MAY_IMPORT, f"{here} is new: say in MAY_IMPORT what it may import"
        allowed = MAY_IMPORT[here] | STUBS | FOUNDATION | {here, "gramserve"}
        for name in module.imports():
            target = _place(name)
            # "from gramserve import log" names the package and then the module in it; anything else is a name in it.
            known = name.split(".")[0] in PACKAGES and target in {*MAY_IMPORT, *STUBS}
            if known and target not in allowed and (module.name, target) not in EXCEPTIONS:
                wrong.append(f"{module.name} imports {name}")
    assert wrong == []


def test_wiring_stands_in_app_and_only_main_uses_it() -> None:
    for module in modules():
        for name in module.imports():
            if re.fullmatch(r"(gateway|inference_svc|optimizer_svc)\.(app|__main__)(\..*)?", name):
                assert module.name == f"{name.split('.')[0]}.__main__", f"{module.name} imports {name}"


@pytest.mark.parametrize("name", LIGHT)
def test_what_does_not_compute_loads_nothing_that_does(name: str) -> None:
    code = f"import sys, json, {name}\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=HANGS_S
    )
    assert not HEAVY & set(json.loads(done.stdout))


def test_a_module_only_defines() -> None:
    """No call stands alone at the top of a module, nor in a loop, a `with` or a `try` there."""
    defining = (
        *(ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
        *(ast.Assign, ast.AnnAssign),
    )
    acting = [
        f"{module.path}:{node.lineno}"
        for module in modules()
        for node in module.tree.body
        if not (
            isinstance(node, defining)
            or (isinstance(node, ast.If) and _is_main_or_typing(node.test))
            or (isinstance(node, ast.Expr) and (isinstance(node.value, ast.Constant) or module.name in REGISTERS))
        )
    ]
    assert acting == []


def _is_main_or_typing(test: ast.expr) -> bool:
    text = ast.unparse(test)
    return text in {"__name__ == '__main__'", "TYPE_CHECKING"} or text.startswith("sys.version_info")


def test_importing_the_house_touches_no_network_and_writes_no_file() -> None:
    """Everything that needs no torch, in one process that reports what it does while importing."""
    names = [m.name for m in modules() if not m.name.startswith("optimizer_svc.") and not m.name.endswith("__main__")]
    names += ["optimizer_svc.app", "optimizer_svc.spec", "optimizer_svc.job_process"]
    # A program to be run by its path, and modules that only exist inside a running child.
    names = [name for name in names if name != "gramserve.local.tether"]
    code = """
import json, os, sys
did = []
def hook(event, arguments):
    if event in {"socket.connect", "socket.bind", "socket.sendto", "subprocess.Popen", "os.system", "os.fork"}:
        did.append(event)
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        if not str(arguments[0]).endswith((".pyc", "/dev/null")) and "__pycache__" not in str(arguments[0]):
            did.append(f"open {arguments[0]}")
    elif event in {"os.mkdir", "os.remove", "os.rename"} and "__pycache__" not in str(arguments[0]):
        did.append(event)
sys.addaudithook(hook)
sys.dont_write_bytecode = True
import importlib
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps(did))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(names)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert done.stdout.count("\n") == 1, "an import prints"


def test_nothing_is_pickled_and_no_checkpoint_is_loaded_with_code_in_it() -> None:
    for module in modules():
        loaded = UNSAFE_MODULES & {name.split(".")[0] for name in module.imports()}
        # The error that torch's safe loader raises is pickle's own.
        assert not loaded or (module.name, loaded) == ("optimizer_svc.weights", {"pickle"}), module.path
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                assert _is_safe_call(node), f"{module.path}:{node.lineno}"
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
                assert node.attr == "UnpicklingError", f"{module.path}:{node.lineno}"


def _is_safe_call(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name == "torch.load":
        return arguments.get("weights_only") == "True"
    if name in {"np.load", "numpy.load"}:
        return arguments.get("allow_pickle", "False") == "False"
    return name not in {"yaml.load", "yaml.unsafe_load", "eval", "exec"}


def test_what_reports_to_its_maker_is_loaded_only_where_that_is_made_impossible() -> None:
    """OpenVINO and NNCF come with telemetry: they are loaded by name, right after it was barred, and never imported."""
    for module in modules():
        assert not REPORTING & {name.split(".")[0] for name in module.imports()}, module.path
        text = (ROOT / module.path).read_text()
        for name in REPORTING:
            if f'import_module("{name}' in text:
                assert "telemetry" in text, module.path


def test_every_exported_name_exists_and_is_listed_once() -> None:
    for module in modules():
        names = _exported(module)
        assert len(set(names)) == len(names), module.path
        assert set(names) <= _defined(module), module.path


def _exported(module: Module) -> list[str]:
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return []


def _defined(module: Module) -> set[str]:
    names: set[str] = set()
    for node in module.tree.body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {ast.unparse(target) for target in node.targets}
        elif isinstance(node, ast.AnnAssign):
            names.add(ast.unparse(node.target))
    return names


@pytest.mark.parametrize("name", ["gramserve.queue", "gramserve.client", "gramserve.store.objects"])
def test_what_a_package_exports_can_be_had_from_it(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__all__
    assert all(getattr(package, exported) for exported in package.__all__)


def test_every_file_has_fewer_than_400_lines_and_begins_with_a_sentence() -> None:
    for path in python_files():
        text = (ROOT / path).read_text()
        assert len(text.splitlines()) < 400, path
        if path.startswith("tests/"):  # their names are their sentences
            continue
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring, f"{path} does not say what it is"
        assert docstring.split("\n\n")[0].rstrip().endswith((".", "?", ":")), f"{path} does not begin with a sentence"


def test_files_are_small() -> None:
    sizes = [len((ROOT / module.path).read_text().splitlines()) for module in modules()]
    assert statistics.median(sizes) < 150


def test_nothing_is_called_by_a_name_that_says_nothing() -> None:
    for path in tracked():
        assert not re.search(r"(^|/|_)(utils?|common|helpers?|misc|manager)(\.py)?(/|$)", path), path


def test_no_machine_path_and_no_host_of_a_package_registry_stands_in_any_file() -> None:
    hosts = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("registry", "npmjs", "org"))]
    hosts += ["/".join(("proxy.golang.org", "")), ".".join(("download", "pytorch", "org"))]
    places = re.compile(r"(?<![\w.$}])/(work|root)/")
    for path in tracked():
        data = (ROOT / path).read_bytes()
        if b"\0" in data[:8000] or path == "tests/test_house.py":
            continue
        text = data.decode(errors="replace")
        assert not places.search(text), f"{path} names a path of one machine"
        assert not [host for host in hosts if host in text], f"{path} names a package registry"


def test_nothing_is_left_to_do_in_the_code() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    for path in python_files():
        if path != "tests/test_house.py":
            assert not marks.search((ROOT / path).read_text()), path


def test_every_invariant_is_named_by_a_test() -> None:
    text = "\n".join((ROOT / path).read_text() for path in python_files() if path.startswith("tests/"))
    named = {int(number) for number in re.findall(r"def test_I(\d+)_", text)}
    assert set(range(1, 16)) - named == set(), "invariants of the design without a test"
    assert named <= set(range(1, 16)), "tests that name an invariant that there is not"
