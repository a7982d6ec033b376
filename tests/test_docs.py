"""The documents agree with the code: settings, names, errors, metrics, texts. Their examples run."""

import ast
import dataclasses
import enum
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest

import molt_accel
import molt_accel.django
import molt_accel.testing
import molt_worker
from molt_accel import CallInfo, CallMetrics, CallOptions, Client, Config
from molt_accel.cluster import wire
from molt_accel.cluster.pulse import SILENCE_S
from molt_accel.config import ConfigError
from molt_accel.errors import ERROR_TABLE
from molt_accel.ipc import messages
from molt_accel.ipc.shm import layout
from molt_accel.testing import plugin
from molt_worker.bridge.bridge import GROUP
from molt_worker.bridge.intake import MOST, PATIENCE_S
from molt_worker.entrypoints import exports
from molt_worker.processes import commands
from molt_worker.supervisor.shm.snapshot import Running
from tests.support import ROOT, TRANSPORTS
from tests.support.documents import DOCS, FENCE, SETTINGS, blocks, read, startproject, write_files
from tests.support.pools import MakeClient

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "bench/*.md", "demo/**/*.md")
    for page in ROOT.glob(pattern)
    if "node_modules" not in page.parts
)
GUIDES = sorted(DOCS.glob("how-to/*.md"))

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_SETTING = re.compile(r"\bMOLT_[A-Z][A-Z_]*[A-Z]\b")


def prose(text: str) -> str:
    return FENCE.sub("", text)


def blocks_of(language: str, pages: Iterable[Path] = PAGES) -> list[Any]:
    """A parameter for each block of a language in these pages."""
    return [
        pytest.param(block.text, id=f"{page.relative_to(ROOT)}-{number}")
        for page in pages
        for number, block in enumerate(blocks(page.read_text(encoding="utf-8")))
        if block.language == language
    ]


def rows(text: str, heading: str) -> list[dict[str, str]]:
    """The rows of the first table whose head begins with `heading`, by column."""
    lines = iter(text.splitlines())
    head: list[str] = []
    for line in lines:
        if line.startswith(f"| {heading} |"):
            head = cells(line)
            break
    assert head, f"there is no table with the column {heading}"
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append(dict(zip(head, cells(line), strict=True)))
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def code(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    match = re.search(rf"^(#+) {re.escape(heading)}$", text, re.M)
    assert match, f"there is no heading {heading}"
    end = re.search(rf"^#{{1,{len(match[1])}}} ", text[match.end() :], re.M)
    return text[match.end() : match.end() + end.start() if end else None]


def anchors(text: str) -> set[str]:
    """The anchors that headings have on code hosting sites."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# -- every page -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = []
    for link in _LINK.findall(prose(text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert not broken


def test_files_of_the_project_that_the_documents_mention_exist() -> None:
    mentioned = re.compile(r"`((?:molt_accel|molt_worker|tests|bench|demo|docs)/[\w./-]+)`")
    missing = [
        path
        for page in PAGES
        if DOCS in page.parents
        for path in mentioned.findall(prose(page.read_text(encoding="utf-8")))
        if not (ROOT / path).exists() and path != "bench/results/"  # made by the benchmark
    ]
    assert missing == []


def test_every_page_of_the_documents_is_in_the_map() -> None:
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in _LINK.findall(read("index.md"))}
    assert [page for page in DOCS.glob("**/*.md") if page not in linked and page.name != "index.md"] == []


@pytest.mark.parametrize("text", blocks_of("python"))
def test_python_blocks_compile(text: str) -> None:
    compile(text, "block", "exec")


@pytest.mark.parametrize("text", blocks_of("json"))
def test_json_blocks_parse(text: str) -> None:
    json.loads(text)


@pytest.mark.parametrize("text", [*blocks_of("sh"), *blocks_of("bash")])
def test_shell_blocks_are_valid_bash(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_setting_that_is_mentioned_exists_in_the_code() -> None:
    sources = [
        path
        for pattern in ("*.ini", "molt_*/**/*.py", "demo/**/*.py", "bench/**/*.py", "bench/**/*.js")
        for path in ROOT.glob(pattern)
    ]
    known = {name for path in sources for name in _SETTING.findall(path.read_text(encoding="utf-8"))}
    mentioned = {name for page in PAGES for name in _SETTING.findall(page.read_text(encoding="utf-8"))}
    assert mentioned - known == set()


# -- configuration --------------------------------------------------------------------------------------
def settings_rows() -> list[dict[str, str]]:
    return rows(read("reference/configuration.md"), "environment, Django")


def test_the_table_of_settings_is_the_config() -> None:
    documented = [
        (*code(row["environment, Django"]), *code(row["field"]), "".join(code(row["flag of molt-worker"])))
        for row in settings_rows()
    ]
    fields = dataclasses.fields(Config)
    assert documented == [(field.metadata["env"], field.name, field.metadata["flag"]) for field in fields]


def test_the_documented_defaults_are_the_defaults() -> None:
    words = {"": "empty", None: "none"}
    for row, field in zip(settings_rows(), dataclasses.fields(Config), strict=True):
        shown = words.get(field.default) if field.default in ("", None) else f"`{field.default}`"
        assert row["default"] == shown, field.name


def test_the_documented_values_are_allowed_and_their_neighbours_are_not() -> None:
    for row in settings_rows():
        (name,) = code(row["environment, Django"])
        bounds = re.fullmatch(r"(\d+) to (\d+)", row["allowed"])
        if bounds:
            low, high = int(bounds[1]), int(bounds[2])
            allowed, refused = [str(low), str(high)], [str(low - 1), str(high + 1), "", "x"]
        elif row["allowed"] == "words":
            allowed, refused = ["a", "Shop-1.eu_2"], ["", "a b", "a.*", ".a", "a..b", ">"]
        elif row["allowed"] == "a text":
            continue
        elif row["allowed"] == "servers":
            allowed, refused = ["", "a", "nats://a:4222,tls://b"], ["http://a", "nats://a:0", ","]
        elif row["allowed"] == "a name":
            allowed, refused = ["", "x", "Pool_1.b-2", "x" * 64], ["x" * 65, ".x", "-x", "a/b", "a b"]
        else:
            allowed, refused = code(row["allowed"]), ["x"]
        for value in allowed:
            Config.load(environ={name: value}, settings=object())
        for value in refused:
            with pytest.raises(ConfigError, match=name):
                Config.load(environ={name: value}, settings=object())


# -- command line ---------------------------------------------------------------------------------------
def options_in_help(*command: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "molt_worker", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "400"},
    )
    return re.findall(r"^  (-.+?)(?:  .*)?$", done.stdout, re.M)


def test_the_options_of_the_command_are_those_of_its_help() -> None:
    documented = rows(read("reference/cli.md"), "option")
    assert [", ".join(code(row["option"])) for row in documented] == options_in_help()


def test_the_environment_variables_of_the_command_are_those_of_the_config() -> None:
    flags = {field.metadata["flag"]: field.metadata["env"] for field in dataclasses.fields(Config)}
    for row in rows(read("reference/cli.md"), "option"):
        flag = code(row["option"])[0].split()[0]
        if flag in flags:
            assert code(row["environment"]) == [flags[flag]]


def test_options_that_the_benchmark_guide_mentions_exist() -> None:
    from bench.scripts import compare, run_cluster_bench, run_demo_bench, run_growth_bench

    mentioned = {
        flag
        for line in read("how-to/run-the-benchmark.md").splitlines()
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)
    }
    scripts = (run_demo_bench, run_cluster_bench, run_growth_bench, compare)
    known = {flag for made in scripts for flag in made.parser()._option_string_actions}
    assert mentioned - known == set()


STATUS = section(read("reference/cli.md"), "molt-worker status")


def test_the_options_of_status_are_those_of_its_help() -> None:
    documented = [", ".join(code(row["status option"])) for row in rows(STATUS, "status option")]
    assert documented == options_in_help("status")


@pytest.mark.skipif("shm" not in TRANSPORTS, reason="shared memory is served on Linux only")
def test_the_fields_of_the_status_document_are_described() -> None:
    with Client(transport="shm", worker_name="docs", log_level="error") as client:
        client.start()
        command = [sys.executable, "-m", "molt_worker", "status", "--name", "docs", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    meanings = {tuple(code(row["document field"])): row["meaning"] for row in rows(STATUS, "document field")}
    fields = [name for names in meanings for name in names]
    assert [name for name in fields if "[]" not in name] == list(document)
    assert code(meanings["queue",])[:2] == list(document["queue"])
    assert code(meanings["memory",]) == list(document["memory"])
    assert code(meanings["restarts",]) == list(document["restarts"])
    assert code(meanings["spin",]) == list(document["spin"])
    assert code(meanings["queue_us", "exec_us"]) == list(document["queue_us"])
    executor = [name for name in code(meanings["executors",]) if name in document["executors"][0]]
    assert executor == list(document["executors"][0])
    running = [field.name for field in dataclasses.fields(Running)]
    assert [name for name in code(meanings["executors[].running",]) if name in running][:4] == running


# -- Python API -----------------------------------------------------------------------------------------
API = read("reference/python-api.md")


@pytest.mark.parametrize(
    "module", [molt_accel, molt_accel.django, molt_accel.testing, molt_worker], ids=lambda m: m.__name__
)
def test_every_public_name_is_described(module: Any) -> None:
    described = section(API, module.__name__)
    missing = [name for name in module.__all__ if not re.search(rf"(?:`|^### |\.){name}\b", described, re.M)]
    assert missing == []


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize(
    ("heading", "function"),
    [("Client", Client.__init__), ("molt_offload", molt_accel.molt_offload), ("export", molt_worker.export)],
)
def test_signatures_name_the_parameters_in_order(heading: str, function: Callable[..., Any]) -> None:
    (stub,) = [block.text for block in blocks(section(API, heading)) if block.language == "python"][:1]
    (defined,) = [node for node in ast.walk(ast.parse(stub)) if isinstance(node, ast.FunctionDef)]
    args = defined.args
    named = [arg.arg for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.kwarg] if arg]
    assert [name for name in named if name != "self"] == parameters(function)


def described_calls(text: str) -> dict[str, list[str]]:
    """Of table cells like "`call(entry, payload=None) -> Any`": the parameters by name."""
    found = {}
    for name, arguments in re.findall(r"^\| `(?:Config\.)?(\w+)\(([^`]*?)\)(?: -> [^`]+)?` \|", text, re.M):
        words = [re.split(r"[=:]", word)[0].strip("* ") for word in arguments.split(",")]
        found[name] = [word for word in words if word]
    return found


def public_methods(cls: type) -> dict[str, Callable[..., Any]]:
    return {
        name: member
        for name, member in inspect.getmembers(cls, inspect.isroutine)
        if not name.startswith("_") and name in vars(cls)
    }


@pytest.mark.parametrize("cls", [Client, Config])
def test_every_method_is_described_with_its_parameters(cls: type) -> None:
    described = described_calls(section(API, cls.__name__))
    assert described == {name: parameters(member) for name, member in public_methods(cls).items()}


def test_the_django_helpers_are_described_with_their_parameters() -> None:
    helpers = molt_accel.django.__all__
    described = described_calls(section(API, "molt_accel.django"))
    assert described == {name: parameters(getattr(molt_accel.django, name)) for name in helpers}


def test_the_test_kit_is_described_with_its_parameters() -> None:
    functions = {name: getattr(molt_accel.testing, name) for name in molt_accel.testing.__all__}
    described = described_calls(section(API, "molt_accel.testing"))
    wanted = {name: parameters(each) for name, each in functions.items() if not isinstance(each, type)}
    assert described == wanted


def test_the_fixtures_of_the_plugin_are_described() -> None:
    fixtures = {name for name in dir(plugin) if name.startswith("molt_") and name != "molt_accel"}
    documented = {code(row["fixture"])[0] for row in rows(section(API, "molt_accel.testing"), "fixture")}
    assert documented == fixtures


def test_the_call_options_are_described_with_their_defaults() -> None:
    documented = [
        (*code(row["field"]), *code(row["default"])) for row in rows(section(API, "CallOptions"), "field")
    ]
    assert documented == [(field.name, repr(field.default)) for field in dataclasses.fields(CallOptions)]


def test_the_fields_of_call_info_are_described() -> None:
    assert {field.name for field in dataclasses.fields(CallInfo)} <= set(code(section(API, "CallInfo")))


def test_the_current_request_is_described() -> None:
    cls = type(molt_worker.current_request())
    members = {name for name in dir(cls) if not name.startswith("_")}
    assert set(re.findall(r"^\| `(\w+)(?:\(\))?` \|", section(API, "current_request"), re.M)) == members


# -- errors and metrics ---------------------------------------------------------------------------------
def test_the_table_of_errors_is_the_error_table() -> None:
    documented = [
        (code(row["status on the wire"]), code(row["exception"]), row["HTTP"], row["public text"])
        for row in rows(read("reference/errors.md"), "status on the wire")
    ]
    assert documented == [
        (
            [row.status.label] if row.status is not None else [],
            [row.exception.__name__],
            str(row.http_status),
            row.public or "the error's own",
        )
        for row in ERROR_TABLE
    ]


def test_the_properties_of_the_errors_are_described() -> None:
    attributes = {
        name for row in rows(read("reference/errors.md"), "attribute") for name in code(row["attribute"])
    }
    properties = {
        name
        for error in ERROR_TABLE
        for name, _ in inspect.getmembers(error.exception, lambda member: isinstance(member, property))
    }
    assert attributes == properties | {"detail", "request_id", "facts", "remote_traceback"}


METRICS = read("reference/metrics.md")


def test_the_table_of_metrics_is_the_dataclass() -> None:
    documented = [(*code(row["field"]), row["type"]) for row in rows(METRICS, "field")]
    assert documented == list(CallMetrics.__annotations__.items())


def documented_request_line() -> list[str]:
    intro = "The line of a request has these besides"
    return code(section(METRICS, "The log").split(intro)[1].split("\n\n")[1])


def test_log_lines_have_documented_fields(make_client: MakeClient, capfd: pytest.CaptureFixture[str]) -> None:
    client = make_client(log_json=True, log_level="debug", log="stderr")
    client.call("echo", 1)
    client.close()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    (request,) = [line for line in lines if line["event"] == "request"]
    assert list(request) == ["ts", "level", "event", *documented_request_line()]
    (example,) = [json.loads(block.text) for block in blocks(METRICS) if block.language == "json"]
    assert list(example) == list(request)


def test_the_ping_report_has_the_documented_fields(client: Client, transport: str) -> None:
    report = client.ping()
    table = rows(section(METRICS, "The ping report"), "field")
    other = "stdio" if transport == "shm" else "shm"
    documented = [
        name for row in table for name in code(row["field"]) if not row["meaning"].startswith(f"`{other}`: ")
    ]
    assert sorted(documented) == sorted(report)
    (pool,) = [row["meaning"] for row in table if code(row["field"]) == ["executors"]]
    assert sorted(code(pool)) == sorted(report["executors"])


def calls_in_sources(packages: Iterable[str]) -> Iterator[ast.Call]:
    for package in packages:
        for path in sorted((ROOT / package).glob("**/*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield node


def called_name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_the_events_of_the_log_are_those_of_the_sources() -> None:
    levels = {"debug", "info", "warning", "error"}
    events = {}
    for call in calls_in_sources(["molt_worker"]):
        if called_name(call) in ("log", "_log", "write_blocking", "say", "_say"):
            texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
            events |= {event: level for level, event in pairwise(texts) if level in levels}
            if texts == ["request"]:  # its level depends on the outcome
                events["request"] = "debug, else warning"
    documented = {code(row["event"])[0]: row["level"] for row in rows(METRICS, "event")}
    assert documented == events


# -- shared memory --------------------------------------------------------------------------------------
PROTOCOL = read("reference/protocol.md")


def test_what_travels_over_nats_is_documented() -> None:
    text = section(PROTOCOL, "Over NATS")
    kinds = {"".join(code(row["byte"])): row["from"] for row in rows(text, "byte")}
    clients = [wire.REQUEST, wire.FIRST_PIECE, wire.NEXT_PIECE]
    bridges = [wire.RESPONSE, wire.RESPONSE_PIECE, wire.GO_ON, wire.TAKEN, wire.OTHER_VERSION]
    assert kinds == {
        **{each.decode(): "client" for each in clients},
        **{each.decode(): "bridge" for each in bridges},
    }
    assert f"PREFIX.{wire.CANCEL}" in text
    assert f"PREFIX.{wire.PIECES}." in text
    assert f"in the queue group `{GROUP}`" in text
    assert f"nothing of a request for {SILENCE_S:g} s" in " ".join(text.split())
    assert f"at most {MOST} requests together" in text
    assert f"after {PATIENCE_S:g} s without a piece" in " ".join(text.split())


@pytest.mark.parametrize(
    ("heading", "value", "members"),
    [
        ("state", "value", layout.ChannelState),
        ("reason", "value", layout.Failure),
        ("gauge", "index", layout.Gauge),
        ("slot gauge", "index", layout.SlotGauge),
    ],
    ids=lambda given: given.__name__ if isinstance(given, type) else None,
)
def test_words_of_shared_memory_are_described(heading: str, value: str, members: type[enum.IntEnum]) -> None:
    table = rows(section(PROTOCOL, "Shared memory"), heading)
    documented = [(*code(row[heading]), int(row[value])) for row in table]
    assert documented == [(member.name, member.value) for member in members]


def test_the_outcomes_are_listed_in_their_order() -> None:
    (listed,) = re.findall(r"The outcomes are, in this order: (.*?)\.", PROTOCOL, re.S)
    assert code(listed) == [outcome.name for outcome in layout.Outcome]


def test_the_steps_of_a_channel_are_the_table_of_transitions() -> None:
    documented = {
        (*code(row["from"]), *code(row["to"])): set(row["by"].split(", "))
        for row in rows(section(PROTOCOL, "State words"), "from")
    }
    assert documented == {
        (before.name, after.name): {actor.name.lower() for actor in actors}
        for (before, after), actors in layout.CHANNEL_TRANSITIONS.items()
    }


@pytest.mark.parametrize(
    ("heading", "directions"),
    [
        ("stdio", (messages.STDIO_FROM_CLIENT, messages.STDIO_FROM_WORKER)),
        ("control socket", (messages.SHM_FROM_CLIENT, messages.SHM_FROM_WORKER)),
        ("inside", (commands.TO_FORKSERVER, commands.FROM_FORKSERVER, commands.FROM_EXECUTOR)),
    ],
)
def test_the_messages_are_described_with_their_fields(heading: str, directions: tuple[Any, ...]) -> None:
    documented = {code(row[heading])[0]: code(row["fields"]) for row in rows(PROTOCOL, heading)}
    spoken = {kind for direction in directions for kind in get_args(direction.type) or (direction.type,)}
    if heading != "stdio":  # where these two are described
        spoken -= {messages.Hello, messages.StartFailed}
    assert documented == {kind.__name__: list(kind.__struct_fields__) for kind in spoken}


CORE = {
    name: int(value)
    for header in (ROOT / "molt_accel/ipc/shm/core").glob("*.h")
    for name, value in re.findall(r"^#define (MOLT_\w+) (\d+)u$", header.read_text(encoding="utf-8"), re.M)
}


@pytest.mark.parametrize(
    ("name", "unit", "text"),
    [
        ("MOLT_QUIET_NS", 1000, "silent for {} us, then it yields"),
        ("MOLT_AWAY_NS", 1000, "after a look that took {} us"),
        ("MOLT_STEADY", 1, "{} requests in a row came from there"),
        ("MOLT_ELSEWHERE_NS", 1000, "as if it had come {} us later"),
        ("MOLT_CONFIRM_NS", 1_000_000, "again after {} ms before it counts"),
        ("MOLT_RECHECK_NS", 1_000_000, "then after {} ms, and after twice as long each time"),
        ("MOLT_MOST_BLIND", 1, "then in the next two, up to {};"),
        ("MOLT_LEAST_PASS", 1, "the next {} waits then"),
        ("MOLT_MOST_PASS", 1, "up to {} while it stays in vain"),
        ("MOLT_GLANCE_NS", 1000, "a caller looks for {} us without"),
        ("MOLT_LOOP_GLANCE_NS", 1000, "looks for up to {} us"),
        ("MOLT_LOOK_NS", 1_000_000, "looked at every {} ms by one client"),
        ("MOLT_DEFER_NS", 1000, "looks {} us later"),
        ("MOLT_PARK_NS", 1_000_000, "every waiter's sleep ends after {} ms"),
        ("MOLT_REST_NS", 1_000_000_000, "an idle executor's sleep ends after {} s"),
        ("MOLT_QUICK_NS", 1_000_000, "began less than {} ms ago"),
        ("MOLT_MOVE_NS", 1_000_000, "at most once in {} ms"),
        ("MOLT_STALL_NS", 1_000_000_000, "doesn't move its bytes for {} s"),
    ],
)
def test_the_constants_of_waiting_are_those_of_the_core(name: str, unit: int, text: str) -> None:
    page = " ".join(read("explanation/lifecycle-of-a-call.md").split())
    assert text.format(f"{CORE[name] / unit:g}") in page


def test_how_rare_looks_for_others_become_is_as_in_the_core() -> None:
    page = " ".join(read("explanation/lifecycle-of-a-call.md").split())
    rarest_ns = CORE["MOLT_RECHECK_NS"] << (CORE["MOLT_MOST_SURE"] - 1)
    assert f"while it stays so, up to {rarest_ns / 1_000_000:g} ms" in page


# -- error texts ----------------------------------------------------------------------------------------
_ERRORS = {row.exception.__name__ for row in ERROR_TABLE} | {
    "ExportsError",
    "NoSharedMemory",
    "WorkerVanished",
}


def texts_of(node: ast.expr) -> list[str]:
    """The constant parts of a text, of each of its forms where it depends on a condition."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        parts = [part.value for part in node.values if isinstance(part, ast.Constant)]
        return [max(map(str, parts), key=len)] if parts else []
    if isinstance(node, ast.IfExp):
        return [*texts_of(node.body), *texts_of(node.orelse)]
    return []


def test_every_error_text_is_in_the_troubleshooting_guide() -> None:
    guide = read("how-to/troubleshoot.md")
    texts = {
        text.strip(" :;'")
        for call in calls_in_sources(["molt_accel", "molt_worker"])
        if called_name(call) in _ERRORS and call.args
        for text in texts_of(call.args[0])
    }
    assert len(texts) > 30
    assert sorted(text for text in texts if text and text not in guide) == []


# -- examples -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("page", ["how-to/write-entrypoints.md", "reference/manifest.md"])
def test_the_manifests_of_the_documents_are_valid(page: str, tmp_path: Path) -> None:
    manifests = [block.text for block in blocks(read(page)) if "abi_version" in block.text]
    assert manifests
    path = tmp_path / "molt_exports.json"
    for text in manifests:
        path.write_text(text)
        exports.read_manifest(path)


def run_python(folder: Path, *arguments: str, settings: str = "") -> str:
    environ = {**os.environ, "MOLT_LOG_LEVEL": "error"}
    # The examples are on their own: nothing of this test run's settings and plug-ins is for them.
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "DJANGO_SETTINGS_MODULE"):
        environ.pop(name, None)
    if settings:
        environ["DJANGO_SETTINGS_MODULE"] = settings
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def tutorial(tmp_path: Path) -> Path:
    """A directory with the tutorial's project."""
    run_python(tmp_path, "-m", "django", *startproject())
    write_files("tutorial.md", tmp_path)
    return tmp_path


def programs() -> list[Any]:
    """The Python blocks of the guides that are no files: whole programs."""
    return [
        pytest.param(page, block.text, id=f"{page.stem}-{number}")
        for page in GUIDES
        for number, block in enumerate(blocks(page.read_text(encoding="utf-8")))
        if block.language == "python" and block.file is None
    ]


@pytest.mark.parametrize(("page", "program"), programs())
def test_the_programs_in_the_guides_run(page: Path, program: str, tutorial: Path) -> None:
    write_files(str(page.relative_to(DOCS)), tutorial)
    run_python(tutorial, "-c", program)


@pytest.mark.sample(1)
@pytest.mark.parametrize("below", ["1000", "many"])
def test_the_tutorials_views_answer_as_it_says(below: str, tutorial: Path) -> None:
    ask = f"""
import django
django.setup()
from django.test import Client
response = Client(headers={{"host": "127.0.0.1"}}).get("/offload", {{"below": "{below}"}})
print(response.status_code, response.content.decode())
"""
    status, _, body = run_python(tutorial, "-c", ask, settings=SETTINGS).partition(" ")
    if below == "1000":
        assert (status, json.loads(body)) == ("200", {"below": 1000, "start": 871, "steps": 179})
    else:
        (shown,) = [
            json.loads(line)
            for block in blocks(read("tutorial.md"))
            for line in block.text.splitlines()
            if line.startswith('{"error":"MoltInvalidInput"')
        ]
        answer = json.loads(body)
        assert (status, answer["error"], answer["detail"]) == ("400", shown["error"], shown["detail"])


def test_the_tests_in_the_testing_guide_pass(tutorial: Path) -> None:
    write_files("how-to/test-offloaded-views.md", tutorial)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly"]
    assert "7 passed" in run_python(tutorial, "-m", "pytest", *options)
    run_python(tutorial, "manage.py", "test")


def test_the_views_of_the_error_guide_answer(tutorial: Path) -> None:
    write_files("how-to/handle-errors.md", tutorial)
    ask = """
import django
django.setup()
import fallback, own, views
from django.test import RequestFactory
from molt_accel import default_client
default_client().start()  # a slow machine's cold start may take longer than the guide's deadline
for view in (views.longest, fallback.longest, own.longest):
    for below in ("1000", "x"):
        response = view(RequestFactory().get("/", {"below": below}))
        print(response.status_code, response.content.decode())
"""
    lines = run_python(tutorial, "-c", ask, settings=SETTINGS).splitlines()
    assert [line.split()[0] for line in lines] == ["200", "400", "200", "400", "200", "200"]
    assert lines[0] == "200 The longest chain starts at 871."


def test_the_error_guide_s_fallback_needs_no_worker(tutorial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files("how-to/handle-errors.md", tutorial)
    monkeypatch.setenv("MOLT_WORKER_CMD", "no-such-command")
    ask = """
import django
django.setup()
import fallback, views
from django.test import RequestFactory
request = RequestFactory().get("/", {"below": "1000"})
print(views.longest(request).status_code, fallback.longest(request).content.decode())
"""
    assert (
        run_python(tutorial, "-c", ask, settings=SETTINGS)
        == '503 {"below": 1000, "start": 871, "steps": 179}\n'
    )
