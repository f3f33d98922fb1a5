"""The documentation says what the code does: keys, examples, messages, codes, targets, paths, links.

The table of cases that the Go plugins fail is made from the cases:
``python -m tests.unit.test_docs > docs/reference-failures.md`` writes it anew.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from cni.registry import PLUGINS
from cni.spec import errors, versions
from cni.spec.call import ARGS_KEYS, REQUIRED, VERBS, Call
from cni.spec.keys import MTU_RANGE
from cni.spec.result import read_result
from ipam.registry import PROVIDERS
from tests.wire.cases import DATA

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "conf" / "README.md"])
FAILURES = DOCS / "reference-failures.md"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

Json = dict[str, Any]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def of_page(page: Path) -> Any:
    return pytest.param(page, id=named(page))


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text())


def section(page: Path, title: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    text = prose(page)
    found = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert found, f"{named(page)} has no section {title!r}"
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found.group(1))}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> list[list[str]]:
    """The cells of every table row of a text, without heads and rulers."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    bodies = [line for number, line in enumerate(lines) if not _is_head(lines, number)]
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in bodies]


def _is_head(lines: list[str], number: int) -> bool:
    ruler = re.compile(r"^\|(-+\|)+$")
    return bool(ruler.match(lines[number])) or (number + 1 < len(lines) and bool(ruler.match(lines[number + 1])))


# Keys.


class Key(NamedTuple):
    """A key of a configuration: its path, its default, and what the record says about it."""

    path: str
    default: Any
    description: str
    is_object: bool


def keys_of(record: type[msgspec.Struct], prefix: str = "") -> list[Key]:
    """Every key that a record reads; ``[]`` stands for the entries of a list."""
    found = []
    info = msgspec.inspect.type_info(record)
    assert isinstance(info, msgspec.inspect.StructType)
    for field in info.fields:
        kind, description, depth = _unwrapped(field.type)
        path = prefix + field.encode_name
        is_object = isinstance(kind, msgspec.inspect.StructType)
        found.append(Key(path, field.default, description, is_object))
        if isinstance(kind, msgspec.inspect.StructType):
            found += keys_of(kind.cls, path + "[]" * depth + ".")
    return found


def _unwrapped(kind: Any) -> tuple[Any, str, int]:
    """A field's type without metadata, None and lists; its description; how many lists there were."""
    description, depth = "", 0
    while True:
        if isinstance(kind, msgspec.inspect.Metadata):
            description = (kind.extra_json_schema or {}).get("description", description)
            kind = kind.type
        elif isinstance(kind, msgspec.inspect.UnionType):
            kind = next(one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType))
        elif isinstance(kind, (msgspec.inspect.VarTupleType, msgspec.inspect.ListType)):
            kind, depth = kind.item_type, depth + 1
        else:
            return kind, description, depth


def record_of(name: str) -> type[msgspec.Struct]:
    """The record that a plugin's, or a provider's, keys are read by."""
    kind = importlib.import_module(PLUGINS[name]).Conf if name in PLUGINS else importlib.import_module(PROVIDERS[name]).Document
    assert issubclass(kind, msgspec.Struct)
    return kind


NAMES = sorted(PLUGINS | PROVIDERS)


def test_every_plugin_has_a_page_and_every_page_a_plugin() -> None:
    assert sorted(page.stem for page in (DOCS / "plugins").glob("*.md")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_table_of_keys_is_complete(name: str) -> None:
    """Both ways. An object that has no description of its own is documented by its keys."""
    keys = {key.path: key for key in keys_of(record_of(name))}
    documented = {path for row in rows(section(DOCS / "plugins" / f"{name}.md", "Keys")) for path in SPAN.findall(row[0])}
    needed = {path for path, key in keys.items() if key.description or not key.is_object}
    assert documented - keys.keys() == set(), "documented, and not known to the code"
    assert needed - documented == set(), "known to the code, and not documented"


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_described_as_in_the_schema_and_defaults_are_right(name: str) -> None:
    keys = {key.path: key for key in keys_of(record_of(name))}
    for row in rows(section(DOCS / "plugins" / f"{name}.md", "Keys")):
        paths, (_, default, meaning) = SPAN.findall(row[0]), row[1:]
        for path in paths:
            key = keys[path]
            if isinstance(key.default, bool | int | str) and key.default != "":
                assert default == f"`{json.dumps(key.default)}`", f"{path}: the default is {key.default}"
            assert len(paths) > 1 or key.description in meaning, f"{path}: the schema says {key.description!r}"


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_and_trouble_is_on_the_page(name: str) -> None:
    page = DOCS / "plugins" / f"{name}.md"
    told = section(page, "What each verb does")
    assert [verb for verb in VERBS if not re.search(rf"^(### {verb}$|\| {verb} \|)", told, re.MULTILINE)] == []
    for title in ("Differences from the reference", "Troubleshooting"):
        assert rows(section(page, title)), f"{title} is empty"


# Examples.


def examples() -> list[Any]:
    return [
        pytest.param(text, id=f"{named(page)}-{number}")
        for page in PAGES
        for number, (language, text) in enumerate(FENCE.findall(page.read_text()))
        if language == "json"
    ]


def parse(config: Json) -> list[str]:
    """Have plugin and provider read a configuration; what they noted about it."""
    notes: list[str] = []
    verb = "GC" if "cni.dev/valid-attachments" in config else "ADD"
    call = Call(
        verb=verb,
        container_id="one",
        netns="/run/netns/one",
        ifname="eth0",
        network=config["name"],
        version=config["cniVersion"],
        config=config,
        notes=notes,
    )
    importlib.import_module(PLUGINS[config["type"]]).parse(call)
    if "ipam" in config:
        importlib.import_module(PROVIDERS[config["ipam"]["type"]]).parse(call)
    return notes


@pytest.mark.parametrize("text", examples())
def test_an_example_is_what_it_seems(text: str) -> None:
    """A list, a plugin's configuration, a result, an error object or an answer to VERSION: each is accepted by its reader."""
    document = json.loads(text)
    if "plugins" in document:
        common = {key: document[key] for key in ("name", "cniVersion")}
        assert [note for plugin in document["plugins"] for note in parse({**plugin, **common})] == []
    elif "type" in document:
        assert parse(document) == []
    elif "ips" in document:
        assert read_result(document, document["cniVersion"], "example").ips
    elif "supportedVersions" in document:
        assert tuple(document["supportedVersions"]) == versions.SUPPORTED
    else:
        assert set(document) == {"cniVersion", "code", "msg", "details"}


# Words.


@lru_cache
def said() -> str:
    """Every text in the code of calls, a line each."""
    texts = []
    for package in ("cni", "ipam"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            texts += [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(texts)


@pytest.mark.parametrize("name", NAMES)
def test_messages_to_look_up_are_messages_of_the_code(name: str) -> None:
    """``…`` stands for what varies."""
    messages = [
        text for row in rows(section(DOCS / "plugins" / f"{name}.md", "Troubleshooting")) for text in SPAN.findall(row[0])
    ]
    parts = {part.strip() for message in messages for part in re.split("…|cannot ", message)}
    assert messages and [part for part in parts if part not in said()] == []


def test_every_error_code_is_explained() -> None:
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.CNIError)]
    documented = [int(row[0]) for row in rows(section(DOCS / "protocol.md", "Error codes"))]
    assert documented == sorted({one.code for one in classes})


def test_environment_and_versions_are_complete() -> None:
    page = DOCS / "protocol.md"
    table = {SPAN.findall(row[0])[0]: row[1:] for row in rows(section(page, "Environment"))}
    columns = ("ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION")
    assert set(columns) == set(VERBS)
    for variable, verbs in REQUIRED.items():
        assert [verb for verb, cell in zip(columns, table[variable], strict=True) if cell == "required"] == sorted(
            verbs, key=columns.index
        )
    assert all(f"`{key}`" in section(page, "CNI_ARGS") for key in ARGS_KEYS)
    assert all(version in prose(page) for version in versions.SUPPORTED)
    assert f"{MTU_RANGE.start} to {MTU_RANGE.stop - 1}" in prose(DOCS / "plugins" / "bridge.md")


# Targets, paths, links.


def code_of(page: Path) -> list[str]:
    """Code spans, and the lines of blocks that are no JSON."""
    blocks = [text for language, text in FENCE.findall(page.read_text()) if language != "json"]
    return SPAN.findall(prose(page)) + [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("page", [of_page(page) for page in PAGES])
def test_make_targets_are_there(page: Path) -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    calls = [match.group(1) for code in code_of(page) for match in re.finditer(r"\bmake((?: [a-z-]+)+)", code)]
    assert {target for call in calls for target in call.split()} <= known


@pytest.mark.parametrize("page", [of_page(page) for page in PAGES])
def test_files_that_are_named_are_there(page: Path) -> None:
    named_here = {
        code
        for span in code_of(page)
        for code in re.findall(r"(?:^|[ `(])((?:cni|ipam|tests|conf|docs|packaging|bench|demo)/[\w./*-]+)", span)
    }
    assert [path for path in named_here if not list(ROOT.glob(path.rstrip("/.")))] == []


def slug(heading: str) -> str:
    """The anchor that a forge makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [of_page(page) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{target} is not there"
        if anchor:
            assert anchor in {slug(heading) for heading in HEADING.findall(prose(other))}, f"{target}: no such heading"


def test_every_ready_to_use_list_is_explained() -> None:
    told = set(SPAN.findall((ROOT / "conf" / "README.md").read_text()))
    assert {path.name for path in (ROOT / "conf").glob("*.conflist")} == {one for one in told if one.endswith(".conflist")}


def test_every_page_can_be_found() -> None:
    """By links, from the README."""
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        waiting += [
            (page.parent / target.partition("#")[0]).resolve() for target in LINK.findall(prose(page)) if ":" not in target
        ]
    assert [named(page) for page in PAGES if page not in seen] == []


# The cases that the Go plugins fail.

HEAD = """\
# Conformance cases that the Go plugins fail

The black-box cases of this repository that the official Go plugins 1.1.1 (Debian 12) do not pass: what a case asks for, in the
words of the specification where it has some, and what they do. Each of these cases is run against them as one that must fail
([testing](testing.md#black-box-any-folder-of-plugins)).

This page is made from the cases by `python -m tests.unit.test_docs`. Later versions of the Go plugins may have mended some.
"""
LATER = re.compile(r"later than 1\.1\.1|predates specification")

COLLECT = """
import json, sys, pytest

class Collector:
    def pytest_collection_finish(self, session):
        found = []
        for item in session.items:
            mark = item.get_closest_marker("known_reference_failure")
            if mark:
                asked = (item.function.__doc__ or "").strip().split("\\n\\n")[0]
                found.append([str(item.path.name), item.originalname, " ".join(asked.split()), str(mark.args[0])])
        print("\\n" + json.dumps(found))

sys.exit(pytest.main(["--collect-only", "-q", "-q", "-p", "no:cacheprovider", "tests/netns"], plugins=[Collector()]))
"""


class Failure(NamedTuple):
    """A case that the Go plugins fail."""

    where: str
    asked: str
    why: str


def failures() -> list[Failure]:
    """Every such case, each combination of place and reason once, in the order of files."""
    found = []
    for file in sorted(DATA.glob("*.json")):
        for case in json.loads(file.read_text())["cases"]:
            if "known_reference_failure" in case:
                found.append(Failure(f"data/wire/{file.name}", case["spec"], case["known_reference_failure"]))
    # sys.executable -c and not this process: collecting twice in one process would meet modules that are loaded already.
    done = subprocess.run([sys.executable, "-c", COLLECT], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("[[")]
    assert lines, f"collecting failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    found += [Failure(f"netns/{module}", asked or name, why) for module, name, asked, why in json.loads(lines[-1])]
    return list(dict.fromkeys(found))


def page_of_failures() -> str:
    """The text of the page."""
    found = failures()
    parts = [HEAD]
    for title, later in (("Failures", False), ("Later than 1.1.1", True)):
        chosen = [failure for failure in found if bool(LATER.search(failure.why)) is later]
        parts.append(f"\n## {title}\n")
        parts += ["", "| what is asked for | what they do | cases in |", "|---|---|---|"] if chosen else []
        parts += [f"| {_cell(asked)} | {_cell(why)} | `tests/{where}` |" for where, asked, why in _joined(chosen)]
    return "\n".join(parts).replace("\n\n\n", "\n\n") + "\n"


def _joined(chosen: list[Failure]) -> list[Failure]:
    """One row for each reason and file, with what is asked by all of its cases."""
    asked: dict[tuple[str, str], list[str]] = {}
    for failure in chosen:
        asked.setdefault((failure.where, failure.why), []).append(failure.asked)
    return [Failure(where, " · ".join(dict.fromkeys(texts)), why) for (where, why), texts in asked.items()]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def test_the_page_of_failures_is_made_from_the_cases() -> None:
    assert FAILURES.read_text() == page_of_failures(), (
        "write it anew: python -m tests.unit.test_docs > docs/reference-failures.md"
    )


if __name__ == "__main__":
    sys.stdout.write(page_of_failures())
