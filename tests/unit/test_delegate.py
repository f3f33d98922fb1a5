"""Delegation to an IPAM plugin: finding it, knowing our own, running somebody else's, and what its answers become."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cni import delegate
from cni.caller import Caller
from cni.spec.call import Call
from cni.spec.errors import CheckFailed, CNIError, ConfigError, EnvError
from ipam import host_local, static
from tests.harness.wrappers import NAMES, ROOT, make_wrappers
from tests.unit.calls import ID, V4, runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.calls import Runtime

__all__ = ["runtime"]

CONFIG = {"cniVersion": "1.1.0", "name": "net", "ipam": {"type": "foreign"}}
ANSWER = {"cniVersion": "1.1.0", "ips": [{"address": "192.0.2.5/24", "gateway": "192.0.2.1"}]}


class Foreign:
    """Somebody else's IPAM plugin: a shell script that writes down how it was called and then does as told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"

    def script(self, body: str, name: str = "foreign") -> Path:
        path = self.folder / name
        log = f'echo "$CNI_COMMAND" >>{self.log}; env -0 >{self.log}.env; cat >{self.log}.stdin\n'
        path.write_text("#!/bin/sh\n" + log + body)
        path.chmod(0o755)
        return path

    def answers(self, document: Any, status: int = 0, stderr: str = "") -> None:
        """ADD answers so; all other verbs succeed silently."""
        text = document if isinstance(document, str) else json.dumps(document)
        (self.folder / "answer").write_text(text)
        self.script(f"""test "$CNI_COMMAND" = ADD || exit 0
            printf '%s' '{stderr}' >&2
            cat {self.folder}/answer
            exit {status}
        """)

    @property
    def verbs(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    @property
    def env(self) -> dict[str, str]:
        pairs = (self.folder / "log.env").read_text().split("\0")
        return dict(pair.split("=", 1) for pair in pairs if "=" in pair)

    def call(self, verb: str = "ADD", **changes: Any) -> Call:
        env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": ID, "CNI_IFNAME": "eth0", "CNI_PATH": str(self.folder), "MINE": "a b\nc"}
        env["PATH"] = "/usr/bin:/bin"
        given: dict[str, Any] = {
            "verb": verb,
            "container_id": ID,
            "ifname": "eth0",
            "path": (str(self.folder),),
            "network": "net",
            "version": "1.1.0",
            "config": CONFIG,
            "stdin": json.dumps(CONFIG).encode(),
            "env": env,
        }
        return Call(**{**given, **changes})


@pytest.fixture
def foreign(tmp_path: Path) -> Foreign:
    return Foreign(tmp_path)


# -- finding --


def test_the_first_folder_that_has_it_wins(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("missing", "a", "b", "c")]
    for folder in folders[1:]:
        folder.mkdir()
    (folders[1] / "x").mkdir()  # a folder of that name is none
    (folders[2] / "x").write_text("")
    (folders[3] / "x").write_text("")
    assert delegate.find("x", tuple(map(str, folders))) == str(folders[2] / "x")


def test_a_link_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "link").symlink_to(sys.executable)
    assert delegate.find("link", (str(tmp_path),)) == str(tmp_path / "link")
    with pytest.raises(CNIError, match="failed to find plugin 'dangling'"):
        delegate.find("dangling", (str(tmp_path),))


@pytest.mark.parametrize("name", ["", "a/b", "../x", "/bin/sh", "a\0b"])
def test_a_path_is_no_name(name: str) -> None:
    with pytest.raises(ConfigError, match=r"invalid ipam\.type"):
        delegate.find(name, ("/bin",))


@pytest.mark.parametrize("name", ["..", ".", "no-such-plugin"])
def test_what_is_not_there(name: str) -> None:
    with pytest.raises(CNIError) as caught:
        delegate.find(name, ("/nowhere", "/usr"))
    assert (caught.value.code, caught.value.msg) == (999, f"failed to find plugin {name!r} in path ['/nowhere', '/usr']")


def test_without_cni_path() -> None:
    with pytest.raises(EnvError, match=r"required env variables \[CNI_PATH\] missing"):
        delegate.find("x", ())


# -- ours --


@pytest.mark.parametrize(
    ("content", "ours"),
    [
        (b"#!/bin/sh\nexec python3 -m cni host-local\n", True),
        (b"#!/usr/bin/python3\nfrom cni.oneshot import main\n", True),
        (b"#!/bin/sh\n# one of ours\n\nexport PYTHONPATH=/x\nexec '/a b/python' -m cni host-local \"$@\"\n", True),
        (b"#!/x/python3\n# -*- coding: utf-8 -*-\nimport re\nimport sys\nfrom cni.oneshot import main\n", True),
        (b"#!/bin/sh\nexec other -m cnix\n", False),
        (b"#!/bin/sh\n# exec python3 -m cni host-local\nexec /opt/theirs/host-local\n", False),
        (b"#!/bin/sh\nlogger $CNI_COMMAND\nexec python3 -m cni host-local\n", False),
        (b"\x7fELF cni.oneshot", False),
        (b"", False),
        (b"#!/bin/sh\n" + b"#" * 4000 + b"\nexec python3 -m cni host-local\n", False),
    ],
)
def test_ours(tmp_path: Path, content: bytes, ours: bool) -> None:
    (tmp_path / "x").write_bytes(content)
    assert delegate._is_ours(str(tmp_path / "x")) is ours


def test_the_wrappers_of_a_checkout_are_ours() -> None:
    for name in NAMES:
        assert delegate._is_ours(str(make_wrappers() / name))


def test_what_cannot_be_read_is_not_ours(tmp_path: Path) -> None:
    assert not delegate._is_ours(str(tmp_path / "gone"))


def test_a_bundle_knows_itself_and_its_client_by_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By way of links too, as an installation has them: a plugin's name, the release in use, the release."""
    for release in ("release-1", "release-2"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "podwire").write_text("the program")
        (tmp_path / release / "shim").write_text("the client")
    (tmp_path / "in-use").symlink_to("release-2")
    links = {"now": "in-use/shim", "former": "in-use/podwire", "older": "release-1/shim", "oldest": "release-1/podwire"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "script").write_text("#!/bin/sh\nexec python3 -m cni host-local\n")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "release-2" / "podwire"))
    ours = {name for name in (*links, "script", "gone") if delegate._is_ours(str(tmp_path / name))}
    assert ours == {"now", "former"}


def test_a_bundle_without_a_client_knows_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "podwire").write_text("")
    (tmp_path / "other").write_text("")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "podwire"))
    assert not delegate._is_ours(str(tmp_path / "other"))


def test_a_checkout_knows_the_client_it_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = tmp_path / "build" / "shim"
    built.parent.mkdir()
    built.write_bytes(b"\x7fELF client")
    monkeypatch.setattr(delegate, "_BUILT", str(built))
    (tmp_path / "host-local").symlink_to(built)
    (tmp_path / "other").write_bytes(b"\x7fELF client")
    assert delegate._is_ours(str(tmp_path / "host-local"))
    assert not delegate._is_ours(str(tmp_path / "other"))
    built.unlink()
    assert not delegate._is_ours(str(tmp_path / "other"))


def test_where_a_checkout_builds_it() -> None:
    assert str(ROOT / "build" / "shim" / "shim") == delegate._BUILT


def test_providers() -> None:
    assert (delegate.provider("host-local"), delegate.provider("static")) == (host_local, static)
    assert delegate.provider("foreign") is None


def test_ours_is_served_in_process(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started, and what it does is the same."""
    monkeypatch.setattr(subprocess, "run", None)
    result = runtime.add(runtime.config(ipam=V4), runtime.pod())
    assert [ip["address"] for ip in result["ips"]] == ["10.1.0.2/24"]
    assert runtime.leases() == {"net/10.1.0.2": f"{ID}\r\neth0".encode()}


def test_the_same_name_in_front_of_ours_is_somebody_elses(runtime: Runtime, tmp_path: Path) -> None:
    """CNI_PATH decides, not the name: an administrator's own host-local stays in use."""
    folder = tmp_path / "front"
    folder.mkdir()
    script = folder / "host-local"
    script.write_text(f"#!/bin/sh\ntest $CNI_COMMAND = ADD && echo '{json.dumps(ANSWER)}'\nexit 0\n")
    script.chmod(0o755)
    result = runtime.add(runtime.config(ipam=V4), runtime.pod(), CNI_PATH=f"{folder}:{runtime.bin}", PATH="/bin")
    assert result["ips"][0]["address"] == "192.0.2.5/24"
    assert runtime.leases() == {}


def test_a_main_plugin_is_no_ipam_plugin(foreign: Foreign) -> None:
    """bridge with ipam.type bridge would start itself for ever: each asks for the address before it makes anything."""
    (foreign.folder / "bridge").write_text("#!/bin/sh\nexec python3 -m cni bridge\n")
    for verb in ("ADD", "DEL", "CHECK", "GC", "STATUS"):
        with pytest.raises(ConfigError, match="bridge"):
            delegate.delegate("bridge", foreign.call(verb), Caller())


# -- somebody else's --


def test_a_result(foreign: Foreign) -> None:
    foreign.answers(ANSWER)
    call = foreign.call()
    result = delegate.delegate("foreign", call, Caller())
    assert result is not None
    assert [(str(ip.address), str(ip.gateway)) for ip in result.ips] == [("192.0.2.5/24", "192.0.2.1")]
    assert (foreign.folder / "log.stdin").read_bytes() == call.stdin
    assert {key: value for key, value in foreign.env.items() if key not in ("_", "PWD", "SHLVL", "OLDPWD")} == call.env
    assert call.notes == []


@pytest.mark.parametrize("verb", ["DEL", "CHECK", "GC", "STATUS"])
def test_other_verbs_answer_nothing(foreign: Foreign, verb: str) -> None:
    """What such a verb prints on success is of no interest (libcni ignores it too)."""
    foreign.script("echo not json\n")
    assert delegate.delegate("foreign", foreign.call(verb), Caller()) is None
    assert (foreign.verbs, foreign.env["CNI_COMMAND"]) == ([verb], verb)


def test_giving_back_is_a_del_with_the_same_stdin(foreign: Foreign) -> None:
    foreign.script("exit 0\n")
    call = foreign.call("ADD")
    assert delegate.undo_add("foreign", call, Caller()) is None
    assert (foreign.verbs, foreign.env["CNI_COMMAND"]) == (["DEL"], "DEL")
    assert (foreign.folder / "log.stdin").read_bytes() == call.stdin
    foreign.script("exit 1\n")
    failure = delegate.undo_add("foreign", call, Caller())
    assert failure is not None
    assert failure.msg == "IPAM plugin 'foreign' failed with status 1 and no error object"


def test_what_it_says_on_stderr_is_passed_on(foreign: Foreign) -> None:
    foreign.answers(ANSWER, stderr="be careful")
    call = foreign.call()
    delegate.delegate("foreign", call, Caller())
    assert call.notes == ["foreign: be careful"]


@pytest.mark.parametrize(
    ("said", "code", "msg", "details"),
    [
        ({"code": 11, "msg": "later"}, 11, "later", ""),
        ({"cniVersion": "1.0.0", "code": 100, "msg": "no", "details": "why"}, 100, "no", "why"),
        ({"code": 7, "msg": "x", "details": None}, 7, "x", ""),
        ({"code": 7, "msg": "x", "details": ["odd"]}, 7, "x", "['odd']"),
    ],
)
def test_errors_pass_through(foreign: Foreign, said: Any, code: int, msg: str, details: str) -> None:
    foreign.answers(said, status=1)
    with pytest.raises(CNIError) as caught:
        delegate.delegate("foreign", foreign.call(), Caller())
    assert (caught.value.code, caught.value.msg, caught.value.details) == (code, msg, details)


@pytest.mark.parametrize(
    ("said", "stderr", "details"),
    [
        ("", "", ""),
        ("", "panic: oh", "panic: oh"),
        ("not json", "", "not json"),
        ("not json", "panic: oh", "panic: oh"),
        ("{}", "", "{}"),
        ("[]", "", "[]"),
        ('{"msg": "x"}', "", '{"msg": "x"}'),
        ('{"code": 5}', "", '{"code": 5}'),
        ('{"code": "x", "msg": "x"}', "", '{"code": "x", "msg": "x"}'),
        ('{"code": null, "msg": "x"}', "", '{"code": null, "msg": "x"}'),
        ('{"code": [], "msg": "x"}', "", '{"code": [], "msg": "x"}'),
    ],
)
def test_dying_without_an_error_object(foreign: Foreign, said: str, stderr: str, details: str) -> None:
    """libcni makes an error of code 0 of it, which the reference prints as its own."""
    foreign.answers(said, status=3, stderr=stderr)
    with pytest.raises(CNIError) as caught:
        delegate.delegate("foreign", foreign.call(), Caller())
    assert caught.value.code == 999
    assert caught.value.msg == "IPAM plugin 'foreign' failed with status 3 and no error object"
    assert caught.value.details == details


def test_dying_by_a_signal(foreign: Foreign) -> None:
    foreign.script("kill -9 $$\n")
    with pytest.raises(CNIError, match="status -9"):
        delegate.delegate("foreign", foreign.call(), Caller())


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("", "IPAM plugin 'foreign' answered what is not JSON"),
        ("{} {}", "IPAM plugin 'foreign' answered what is not JSON"),
        ("[" * 100_000, "IPAM plugin 'foreign' answered what is not JSON"),
        ("[]", r"invalid result of IPAM plugin 'foreign': expected an object, got list"),
        ('{"ips": [{"address": "x"}]}', r"invalid result of IPAM plugin 'foreign'\.ips"),
        ('{"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.1/8"}}', "result of IPAM plugin 'foreign' has cniVersion '0.2.0'"),
        ("{}", "IPAM plugin 'foreign' returned missing IP config"),
        ('{"ips": []}', "IPAM plugin 'foreign' returned missing IP config"),
        ("{" + " " * (1 << 20) + "}", "IPAM plugin 'foreign' answered 10485[0-9]+ bytes"),
    ],
)
def test_an_answer_that_is_no_result(foreign: Foreign, said: str, says: str) -> None:
    foreign.answers(said)
    with pytest.raises(CNIError, match=f"^{says}"):
        delegate.delegate("foreign", foreign.call(), Caller())


@pytest.mark.parametrize("said", ["", "not json", "[]", "{}", '{"ips": [{"address": "x"}]}'])
def test_what_it_may_have_leased_is_given_back_when_its_answer_is_useless(
    foreign: Foreign, runtime: Runtime, said: str
) -> None:
    """It ended with success, so it holds an address by now."""
    foreign.answers(said)
    config = runtime.config(ipam={"type": "foreign"})
    reply = runtime.call("ADD", config, runtime.pod(), CNI_PATH=str(foreign.folder), PATH="/bin")
    assert reply.status == 1
    assert foreign.verbs == ["ADD", "DEL"]


def test_an_add_that_failed_is_followed_by_a_del(foreign: Foreign, runtime: Runtime) -> None:
    """Section 4: "If, on ADD, a delegated plugin fails, the upper plugin should execute again with DEL"."""
    foreign.answers({"code": 999, "msg": "there already"}, status=1)
    config = runtime.config(ipam={"type": "foreign"})
    reply = runtime.call("ADD", config, runtime.pod(), CNI_PATH=str(foreign.folder), PATH="/bin")
    assert (reply.status, json.loads(reply.stdout)["msg"]) == (1, "there already")
    assert foreign.verbs == ["ADD", "DEL"]


def test_a_plugin_that_fails_after_it_gives_the_address_back(foreign: Foreign, runtime: Runtime) -> None:
    foreign.answers(ANSWER | {"routes": [{"dst": "198.51.100.0/24", "gw": "203.0.113.1"}]})
    config, pod = runtime.config(ipam={"type": "foreign"}), runtime.pod()
    was = runtime.dump()
    reply = runtime.call("ADD", config, pod, CNI_PATH=str(foreign.folder), PATH="/bin")
    assert "198.51.100.0/24 via 203.0.113.1" in json.loads(reply.stdout)["msg"]
    assert foreign.verbs == ["ADD", "DEL"]
    assert runtime.dump() == was


def test_every_verb_reaches_it(foreign: Foreign, runtime: Runtime) -> None:
    """GC too, which the reference forwards to nobody (spec section 4: plugins MUST)."""
    foreign.answers(ANSWER)
    config, pod = runtime.config(ipam={"type": "foreign"}), runtime.pod()
    env = {"CNI_PATH": str(foreign.folder), "PATH": "/bin"}
    config["prevResult"] = runtime.add(config, pod, **env)
    config["cni.dev/valid-attachments"] = [{"containerID": ID, "ifname": "eth0"}]
    for verb in ("CHECK", "STATUS", "GC", "DEL", "DEL"):
        reply = runtime.call(verb, config, pod, **env)
        assert (reply.status, reply.stdout) == (0, b""), reply
    assert foreign.verbs == ["ADD", "CHECK", "STATUS", "GC", "DEL", "DEL"]


def test_what_check_finds_is_added_to_what_the_plugin_finds(foreign: Foreign, runtime: Runtime) -> None:
    foreign.answers(ANSWER)
    config, pod = runtime.config(ipam={"type": "foreign"}), runtime.pod()
    env = {"CNI_PATH": str(foreign.folder), "PATH": "/bin"}
    config["prevResult"] = runtime.add(config, pod, **env)
    runtime.machine.host().root.set_link("cni0", up=False)
    foreign.script("""echo '{"code": 42, "msg": "lost it", "details": "all"}'; exit 1\n""")
    error = json.loads(runtime.call("CHECK", config, pod, **env).stdout)
    assert (error["code"], error["msg"]) == (CheckFailed.code, "bridge cni0 is down; lost it: all")


# -- running it --


def test_what_cannot_be_run(foreign: Foreign) -> None:
    for prepare, reason in ((lambda path: path.chmod(0o644), "Permission denied"), (_broken, "Exec format error")):
        prepare(foreign.script(""))
        with pytest.raises(CNIError) as caught:
            delegate.delegate("foreign", foreign.call(), Caller())
        assert (caught.value.code, caught.value.msg) == (999, f"cannot run IPAM plugin {foreign.folder}/foreign: {reason}")


def _broken(path: Path) -> None:
    path.chmod(0o755)
    path.write_bytes(b"\x7fELF nonsense")


@pytest.mark.parametrize(("busy", "runs"), [(0, 1), (3, 4), (5, 6)])
def test_an_executable_that_is_being_replaced_is_tried_again(
    foreign: Foreign, monkeypatch: pytest.MonkeyPatch, busy: int, runs: int
) -> None:
    foreign.answers(ANSWER)
    tries = _busy(monkeypatch, busy, errno.ETXTBSY)
    assert delegate.delegate("foreign", foreign.call(), Caller()) is not None
    assert len(tries) == runs


def test_patience_ends(foreign: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign.answers(ANSWER)
    tries = _busy(monkeypatch, 100, errno.ETXTBSY)
    with pytest.raises(CNIError, match="Text file busy"):
        delegate.delegate("foreign", foreign.call(), Caller())
    assert len(tries) == 6
    tries = _busy(monkeypatch, 100, errno.ENOMEM)
    with pytest.raises(CNIError, match="Cannot allocate memory"):
        delegate.delegate("foreign", foreign.call(), Caller())
    assert len(tries) == 1


def _busy(monkeypatch: pytest.MonkeyPatch, times: int, number: int) -> list[Any]:
    """The first runs fail as the kernel fails them; the list grows with each run."""
    tries: list[Any] = []
    real: Callable[..., Any] = subprocess.run if not hasattr(subprocess.run, "real") else subprocess.run.real

    def run(*given: Any, **named: Any) -> Any:
        tries.append(given)
        if len(tries) <= times:
            raise OSError(number, {errno.ETXTBSY: "Text file busy"}.get(number, "Cannot allocate memory"))
        return real(*given, **named)

    run.real = real  # type: ignore[attr-defined]
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(delegate, "_BUSY_PAUSE_S", 0)
    return tries


def test_a_file_open_for_writing_is_busy_for_real(foreign: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own refusal: an executable that somebody has open for writing cannot be run."""
    path = foreign.folder / "foreign"
    shutil.copy("/bin/true", path)
    path.chmod(0o755)
    monkeypatch.setattr(delegate, "_BUSY_PAUSE_S", 0)
    with path.open("ab"), pytest.raises(CNIError, match="Text file busy"):
        delegate.delegate("foreign", foreign.call("DEL"), Caller())
    assert delegate.delegate("foreign", foreign.call("DEL"), Caller()) is None
