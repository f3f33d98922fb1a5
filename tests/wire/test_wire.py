"""Every wire case, every way in: all ways must answer as expected, and our own ways byte for byte alike."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.conftest import given_folder, whose
from tests.harness.agent import Agent, make_shims
from tests.harness.node import PATH, Node
from tests.harness.wrappers import BUNDLE, make_wrappers
from tests.wire.cases import VERSIONS, Case, judge, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Answer = tuple[int, bytes, bytes]
# In process; a process of Python; the bundle, and the native client, where no agent listens; the native client and the agent.
OUR_WAYS = ("dispatch", "module", "bundle", "shim", "agent")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each case once a way; a case for many plugins starts processes of ours for the first one only."""
    if "case" not in metafunc.fixturenames:
        return
    foreign = given_folder(metafunc.config) is not None
    found = []
    for case in load():
        marks = [pytest.mark.known_reference_failure(case.known_reference_failure)] if case.known_reference_failure else []
        for way in ("given",) if foreign else OUR_WAYS:
            if way in ("dispatch", "given") or case.first:
                found.append(pytest.param(case, way, id=f"{way}-{case.id}", marks=marks))
    metafunc.parametrize(("case", "way"), found)


@pytest.fixture(scope="module")
def place() -> Iterator[Node | None]:
    """Where executables run: as root in a node, so that a wrong plugin cannot touch the machine."""
    if os.geteuid():
        yield None
        return
    with Node() as node:
        yield node


@pytest.fixture(scope="module")
def shims(place: Node | None) -> Iterator[Callable[[], Path]]:
    """The folder of native clients, and from its first use on an agent where they run."""
    if place is None:
        yield lambda: pytest.skip("the agent needs root")
        return
    made: list[Agent] = []

    def folder() -> Path:
        if not made:
            made.append(Agent(place))
        return make_shims()

    yield folder
    for agent in made:
        with agent:
            agent.unharmed()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """The folder of the bundle's plugins; a skip when there is no bundle (the Makefile builds it before)."""
    made: list[Path] = []

    def folder() -> Path:
        program = BUNDLE / "podwire"
        if not program.is_file():
            pytest.skip("no bundle: build it with `make bundle`")
        if not made:
            made.append(tmp_path_factory.mktemp("bundle"))
            for name in ("loopback", "bridge", "host-local", "static"):
                (made[0] / name).symlink_to(program)
        return made[0]

    return folder


def in_process(case: Case, env: dict[str, str], stdin: bytes) -> Answer:
    """The case through `cni.dispatch.dispatch`."""
    from cni.dispatch import dispatch

    reply = dispatch(case.plugin, env, stdin)
    return reply.status, reply.stdout, reply.stderr.encode(errors="surrogateescape")


def as_process(folder: Path, case: Case, env: dict[str, str], stdin: bytes, place: Node | None, alone: bool) -> Answer:
    """The case through an executable; ``alone`` where no agent listens."""
    argv = [str(folder / case.plugin)]
    done = subprocess.run(
        place.argv(argv) if place else argv,
        input=stdin,
        capture_output=True,
        check=False,
        env={"PATH": PATH, **({"PODWIRE_SOCKET": ""} if alone else {}), **env},
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def fresh(folder: Path) -> str:
    """An empty folder at the same path for every way, so that answers that name it are equal."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return str(folder)


def test_case(
    case: Case,
    way: str,
    tmp_path: Path,
    place: Node | None,
    bundle: Callable[[], Path],
    shims: Callable[[], Path],
    pytestconfig: pytest.Config,
) -> None:
    """The answer is the one that the case's sentence of the specification asks for."""
    given = given_folder(pytestconfig)
    folders = {"bundle": bundle, "shim": make_shims, "agent": shims}
    folder = given or folders.get(way, make_wrappers)()
    places = {"TMP": str(tmp_path / "tmp"), "BIN": str(given or make_wrappers())}
    env, stdin, expect = case.env(**places), case.stdin(**places), case.expect(**places)
    judged = whose(pytestconfig)
    note = f"\n[{case.body['spec']}]"

    fresh(tmp_path / "tmp")
    if way == "dispatch":
        judge(expect, *in_process(case, env, stdin), whose=judged, note=note)
        return
    answer = as_process(folder, case, env, stdin, place, alone=way == "shim")
    judge(expect, *answer, whose=judged, note=note)
    if way != "given":
        fresh(tmp_path / "tmp")
        assert answer == in_process(case, env, stdin), f"{way} and dispatch answer differently{note}"


def test_the_cases_cover_the_protocol() -> None:
    """Every command, every version, every error code of the protocol itself and every plugin has its cases."""
    cases = load()
    commands = {case.body["env"].get("CNI_COMMAND") for case in cases}
    assert {"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", None} <= commands
    told = {case.expect().get("result", {}).get("cniVersion") for case in cases}
    assert set(VERSIONS) <= told
    codes = {case.expect().get(key) for case in cases for key in ("code", "code_ours")}
    assert {1, 4, 5, 6, 7, 999} <= codes
    assert {case.plugin for case in cases} == {"loopback", "bridge", "host-local", "static"}
