"""packaging/install.sh: the bundle on a node and off again, in any order, from any PREFIX, while calls are running.

Everything happens in folders of the test. The last case installs into a private node and wires a pod from there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent import command, life, listen
from tests.harness import observe
from tests.harness.node import PATH
from tests.harness.plugin import Executables
from tests.harness.wrappers import BUNDLE, NAMES, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.node import Node

INSTALL = ROOT / "packaging" / "install.sh"
OTHER = "sbr"

# One installation copies all of the bundle; for most cases a program that can be told apart is enough.
PROGRAM = """#!/bin/sh
echo "podwire, release {}"
"""

Done = subprocess.CompletedProcess[str]
Tree = dict[str, Any]


class Root:
    """A machine's root folder in which podwire is installed, with PREFIX and CNI_BIN_DIR below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.units = folder.parent / "units"  # never those of the machine

    def install(self, bundle: Path, prefix: str = "A", bin_dir: str = "bin", **env: str) -> Done:
        return self._call("install", str(bundle), prefix=prefix, bin_dir=bin_dir, env=env)

    def uninstall(self, prefix: str = "A", bin_dir: str = "bin", **env: str) -> Done:
        return self._call("uninstall", prefix=prefix, bin_dir=bin_dir, env=env)

    @property
    def env(self) -> dict[str, str]:
        """What every call of the installer needs."""
        return {"PATH": PATH, "SYSTEMD_DIR": str(self.units)}

    def _call(self, *arguments: str, prefix: str, bin_dir: str, env: dict[str, str]) -> Done:
        settings = {"PREFIX": f"{self.folder}/{prefix}", "CNI_BIN_DIR": f"{self.folder}/{bin_dir}", **env}
        return subprocess.run(
            [INSTALL, *arguments],
            env={**self.env, **settings},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def has_go_plugins(self, bin_dir: str = "bin") -> Tree:
        """Plugins that were there before: files, a link, and one of a name that is not ours. What the folder holds."""
        folder = self.folder / bin_dir
        folder.mkdir(parents=True)
        for name in ("bridge", "host-local", OTHER):
            (folder / name).write_text(f"#!/bin/sh\necho Go {name}\n")
            (folder / name).chmod(0o755)
        os.utime(folder / "bridge", (1_000_000_000, 1_000_000_000))
        (self.folder / "go-loopback").write_text("#!/bin/sh\necho Go loopback\n")
        (self.folder / "go-loopback").chmod(0o755)
        (folder / "loopback").symlink_to(self.folder / "go-loopback")
        return tree(folder)

    def says(self, name: str, bin_dir: str = "bin") -> str:
        """What an executable of CNI_BIN_DIR prints."""
        return subprocess.run(
            [self.folder / bin_dir / name], capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()


def tree(folder: Path) -> Tree:
    """All there is below a folder: the text of a link, the mode, time and content of a file, the mode of a folder."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            found[str(path.relative_to(folder))] = str(path.readlink())
        elif path.is_dir():
            found[str(path.relative_to(folder))] = oct(status.st_mode)
        else:
            found[str(path.relative_to(folder))] = (oct(status.st_mode), status.st_mtime_ns, path.read_bytes())
    return found


def succeeded(done: Done) -> Done:
    assert done.returncode == 0, done
    assert done.stderr == "", done
    return done


def refused(done: Done, says: str) -> None:
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert done.stderr.startswith("install: "), done
    assert says in done.stderr, done


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "root").mkdir()
    return Root(tmp_path / "root")


@pytest.fixture
def release(tmp_path: Path) -> Releases:
    return Releases(tmp_path)


class Releases:
    """Small bundles: the same names and links as the real one, and a client that says which release it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, number: int) -> Path:
        bundle = self.folder / f"bundle-{number}"
        if not bundle.exists():
            (bundle / "_internal").mkdir(parents=True)
            (bundle / "_internal" / "module.py").write_text(f"RELEASE = {number}\n")
            for program in ("podwire", "shim"):
                (bundle / program).write_text(PROGRAM.format(number))
                (bundle / program).chmod(0o755)
            for name in NAMES:
                (bundle / name).symlink_to("shim")
        return bundle


@pytest.fixture(scope="session")
def bundle() -> Path:
    if not (BUNDLE / "podwire").exists():
        pytest.skip("the bundle is not built (make bundle)")
    return BUNDLE


# On, again, and off.


def test_install_and_uninstall_leave_the_folder_as_it_was(root: Root, release: Releases) -> None:
    before = root.has_go_plugins()
    succeeded(root.install(release[1]))
    assert {name: root.says(name) for name in NAMES} == dict.fromkeys(NAMES, "podwire, release 1")
    assert root.says(OTHER) == f"Go {OTHER}"
    assert root.says("podwire", "A/bin") == "podwire, release 1"
    succeeded(root.uninstall())
    assert tree(root.bin) == before
    assert not (root.folder / "A").exists()


def test_nothing_was_there_and_nothing_is_left(root: Root, release: Releases) -> None:
    succeeded(root.install(release[1]))
    assert sorted(tree(root.bin)) == sorted(NAMES)
    succeeded(root.uninstall())
    assert tree(root.folder) == {"bin": "0o40755"}


def test_each_release_replaces_the_one_before_and_the_last_two_are_kept(root: Root, release: Releases) -> None:
    before = root.has_go_plugins()
    for number in (1, 2, 3):
        succeeded(root.install(release[number]))
        assert {root.says(name) for name in NAMES} == {f"podwire, release {number}"}
    kept = [path.read_text() for path in (root.folder / "A/lib").glob("podwire-*/_internal/module.py")]
    assert sorted(kept) == ["RELEASE = 2\n", "RELEASE = 3\n"]
    succeeded(root.uninstall())
    assert tree(root.bin) == before


def test_uninstall_twice_and_without_an_installation(root: Root, release: Releases) -> None:
    before = root.has_go_plugins()
    succeeded(root.uninstall())
    succeeded(root.install(release[1]))
    succeeded(root.uninstall())
    succeeded(root.uninstall())
    assert tree(root.bin) == before
    assert not (root.folder / "A").exists()


def test_uninstall_makes_no_folders(root: Root) -> None:
    succeeded(root.uninstall())
    assert tree(root.folder) == {}


def test_a_plugin_that_a_release_no_longer_has_goes_and_what_it_replaced_comes_back(root: Root, release: Releases) -> None:
    before = root.has_go_plugins()
    succeeded(root.install(release[1]))
    (release[2] / "bridge").unlink()
    (release[2] / "static").unlink()
    succeeded(root.install(release[2]))
    assert root.says("bridge") == "Go bridge"
    assert not os.path.lexists(root.bin / "static")
    assert root.says("host-local") == "podwire, release 2"
    succeeded(root.uninstall())
    assert tree(root.bin) == before


def test_what_took_a_name_since_is_not_overwritten(root: Root, release: Releases) -> None:
    root.has_go_plugins()
    succeeded(root.install(release[1]))
    (root.bin / "bridge").unlink()
    (root.bin / "bridge").write_text("newer\n")
    done = succeeded(root.uninstall())
    assert (root.bin / "bridge").read_text() == "newer\n"
    assert "its name is taken" in done.stdout
    assert "echo Go bridge" in (root.folder / "A/replaced/bridge").read_text()


def test_what_took_a_name_since_is_what_comes_back_after_a_second_install(root: Root, release: Releases) -> None:
    root.has_go_plugins()
    succeeded(root.install(release[1]))
    (root.bin / "bridge").unlink()
    (root.bin / "bridge").write_text("newer\n")
    succeeded(root.install(release[1]))
    assert root.says("bridge") == "podwire, release 1"
    succeeded(root.uninstall())
    assert (root.bin / "bridge").read_text() == "newer\n"


def test_a_link_that_leads_nowhere_by_now_does_not_come_back(root: Root, release: Releases) -> None:
    root.has_go_plugins()
    succeeded(root.install(release[1]))
    (root.folder / "go-loopback").unlink()
    done = succeeded(root.uninstall())
    assert not os.path.lexists(root.bin / "loopback")
    assert f"{root.folder}/A/replaced/loopback" in done.stdout
    assert root.says("bridge") == "Go bridge"


# More than one PREFIX, and one PREFIX in several spellings.

SPELLINGS = ["A/", "/A", "A//", "x/../A", "./A"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_another_spelling_of_prefix(root: Root, release: Releases, spelling: str) -> None:
    before = root.has_go_plugins()
    succeeded(root.install(release[1]))
    succeeded(root.install(release[2], prefix=spelling))
    assert root.says("bridge") == "podwire, release 2"
    succeeded(root.uninstall())
    assert tree(root.bin) == before
    assert not (root.folder / "A").exists()


@pytest.mark.parametrize("spelling", ["bin/", "x/../bin"])
def test_another_spelling_of_cni_bin_dir(root: Root, release: Releases, spelling: str) -> None:
    before = root.has_go_plugins()
    succeeded(root.install(release[1], bin_dir=spelling))
    succeeded(root.install(release[2]))
    succeeded(root.uninstall(bin_dir=spelling))
    assert tree(root.bin) == before


@pytest.mark.parametrize("last", ["A", "link"])
def test_a_prefix_behind_a_link(root: Root, release: Releases, last: str) -> None:
    before = root.has_go_plugins()
    (root.folder / "A").mkdir()
    (root.folder / "link").symlink_to("A")
    succeeded(root.install(release[1], prefix="link"))
    succeeded(root.install(release[2], prefix="A"))
    succeeded(root.install(release[3], prefix="link"))
    assert root.says("bridge") == "podwire, release 3"
    succeeded(root.uninstall(prefix=last))
    assert tree(root.bin) == before


@pytest.mark.parametrize(
    ("installs", "uninstalls"),
    [("AB", "AB"), ("AB", "BA"), ("ABA", "AB"), ("ABA", "BA"), ("ABAB", "AB"), ("ABAB", "BA"), ("AAB", "BA"), ("ABC", "ACB")],
)
def test_any_order_of_several_prefixes(root: Root, release: Releases, installs: str, uninstalls: str) -> None:
    """The last installed one serves the names until it is uninstalled; at the end all is as before the first."""
    before = root.has_go_plugins()
    for number, prefix in enumerate(installs):
        succeeded(root.install(release[number], prefix=prefix))
        assert {root.says(name) for name in NAMES} == {f"podwire, release {number}"}
    serving = True
    for prefix in uninstalls:
        succeeded(root.uninstall(prefix=prefix))
        serving = serving and prefix != installs[-1]
        if serving:
            assert {root.says(name) for name in NAMES} == {f"podwire, release {len(installs) - 1}"}
        else:
            assert tree(root.bin) == before
    assert sorted(os.listdir(root.folder)) == ["bin", "go-loopback"]


def test_a_prefix_that_was_deleted_by_hand(root: Root, release: Releases) -> None:
    """Its links lead nowhere; they are podwire's all the same, nobody's plugin to be kept."""
    succeeded(root.install(release[1], prefix="A"))
    shutil.rmtree(root.folder / "A")
    succeeded(root.install(release[2], prefix="B"))
    assert root.says("bridge") == "podwire, release 2"
    succeeded(root.uninstall(prefix="B"))
    succeeded(root.uninstall(prefix="A"))
    assert tree(root.bin) == {}


def test_links_of_a_deleted_prefix_are_taken_off(root: Root, release: Releases) -> None:
    succeeded(root.install(release[1]))
    shutil.rmtree(root.folder / "A")
    succeeded(root.uninstall())
    assert tree(root.bin) == {}


# One PREFIX, one CNI_BIN_DIR.


def test_another_cni_bin_dir_is_refused(root: Root, release: Releases) -> None:
    root.has_go_plugins()
    succeeded(root.install(release[1]))
    before = tree(root.folder)
    for done in (root.install(release[2], bin_dir="elsewhere"), root.uninstall(bin_dir="elsewhere")):
        refused(done, f"{root.folder}/A serves CNI_BIN_DIR={root.bin}, not {root.folder}/elsewhere: uninstall it there first")
    assert tree(root.folder) == before
    succeeded(root.uninstall())
    succeeded(root.install(release[2], bin_dir="elsewhere"))
    assert root.says("bridge", "elsewhere") == "podwire, release 2"


def test_plugins_kept_for_another_folder_stay_there(root: Root, release: Releases) -> None:
    """Two PREFIXes serve two folders; a link that was copied from one to the other hands nothing over."""
    before = root.has_go_plugins()
    succeeded(root.install(release[1], prefix="A"))
    (root.folder / "other").mkdir()
    shutil.copy(root.bin / "bridge", root.folder / "other" / "bridge", follow_symlinks=False)
    succeeded(root.install(release[2], prefix="B", bin_dir="other"))
    succeeded(root.uninstall(prefix="B", bin_dir="other"))
    assert tree(root.folder / "other") == {}
    succeeded(root.uninstall(prefix="A"))
    assert tree(root.bin) == before


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"PREFIX": "opt/podwire"}, "PREFIX must be an absolute path, not 'opt/podwire'"),
        ({"PREFIX": "/"}, "PREFIX must not be the root folder"),
        ({"PREFIX": "/x/.."}, "PREFIX must not be the root folder"),
        ({"CNI_BIN_DIR": "bin"}, "CNI_BIN_DIR must be an absolute path, not 'bin'"),
    ],
)
def test_settings_that_cannot_be(root: Root, release: Releases, settings: dict[str, str], says: str) -> None:
    below = {"DESTDIR": str(root.folder)}  # should they not be refused, the machine itself is safe
    refused(root.install(release[1], **settings, **below), says)
    refused(root.uninstall(**settings, **below), says)
    assert tree(root.folder) == {}


def test_one_folder_for_both(root: Root, release: Releases) -> None:
    refused(root.install(release[1], prefix="bin"), "CNI_BIN_DIR and PREFIX are one folder")


@pytest.mark.parametrize("missing", ["podwire", "shim", "plugins"])
def test_what_is_no_bundle(root: Root, release: Releases, missing: str) -> None:
    for name in NAMES if missing == "plugins" else (missing,):
        (release[1] / name).unlink()
    refused(root.install(release[1]), "run make bundle first")
    assert tree(root.folder) == {}


def test_a_folder_under_a_plugins_name(root: Root, release: Releases) -> None:
    (root.bin / "bridge").mkdir(parents=True)
    refused(root.install(release[1]), f"{root.bin}/bridge is a folder; move it away")
    assert tree(root.folder) == {"bin": "0o40755", "bin/bridge": "0o40755"}


# Another root, another umask.


@pytest.mark.parametrize("spelling", ["{}", "{}/"])
def test_destdir(root: Root, release: Releases, spelling: str) -> None:
    """Links are those that the installed system will see; what was there comes back, links that lead within it too."""
    settings = {"DESTDIR": spelling.format(root.folder), "PREFIX": "/opt/podwire", "CNI_BIN_DIR": "/opt/cni/bin"}
    root.has_go_plugins("opt/cni/bin")
    loopback = root.folder / "opt/cni/bin/loopback"
    loopback.unlink()
    loopback.symlink_to("/go-loopback")
    before = tree(root.folder / "opt/cni/bin")
    succeeded(root.install(release[1], **settings))
    assert os.readlink(root.folder / "opt/cni/bin/bridge") == "/opt/podwire/lib/podwire/shim"
    succeeded(root.install(release[2], **{**settings, "PREFIX": "/opt/other"}))
    assert os.readlink(root.folder / "opt/cni/bin/bridge") == "/opt/other/lib/podwire/shim"
    program = root.folder / "opt/other/lib/podwire/shim"
    assert subprocess.check_output([program], text=True) == "podwire, release 2\n"
    succeeded(root.uninstall(**settings))
    succeeded(root.uninstall(**{**settings, "PREFIX": "/opt/other"}))
    assert tree(root.folder / "opt/cni/bin") == before
    assert os.listdir(root.folder / "opt") == ["cni"]


def test_a_strict_umask_makes_a_tree_that_everybody_can_use(root: Root, release: Releases) -> None:
    for path in (release[1], *release[1].rglob("*")):  # made under the same umask
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o700)
    before = os.umask(0o077)
    try:
        succeeded(root.install(release[1]))
    finally:
        os.umask(before)
    for path in (root.bin, root.folder / "A", *(root.folder / "A").rglob("*")):
        mode = path.stat().st_mode & 0o777
        assert mode == (0o755 if path.is_dir() or path.name in ("podwire", "shim", *NAMES) else 0o644), path


# Units for systemd.

UNITS = ["podwire-agent.service", "podwire-agent.socket"]


def test_units_have_the_prefix_and_systemd_understands_them(root: Root, release: Releases) -> None:
    done = succeeded(root.install(release[1]))
    assert sorted(tree(root.units)) == UNITS
    assert "systemctl enable --now podwire-agent" in done.stdout
    text = "".join((root.units / unit).read_text() for unit in UNITS)
    assert "@" not in text
    assert f"ExecStart={root.folder}/A/bin/podwire agent" in text
    assert text.count(f"# podwire in {root.folder}/A\n") == 2
    assert {(root.units / unit).stat().st_mode & 0o777 for unit in UNITS} == {0o644}
    verified = subprocess.run(
        ["systemd-analyze", "verify", *(root.units / unit for unit in UNITS)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_the_socket_is_where_clients_and_agents_look() -> None:
    text = (ROOT / "conf/systemd/podwire-agent.socket").read_text()
    assert f"\nListenStream={command.SOCKET}\n" in text
    assert f'DEFAULT_SOCKET[] = "{command.SOCKET}"' in (ROOT / "shim/shim.c").read_text()
    assert f"\nBacklog={listen.BACKLOG}\n" in text
    service = (ROOT / "conf/systemd/podwire-agent.service").read_text()
    assert f"\nRuntimeDirectory={Path(command.SOCKET).parent.relative_to('/run')}\n" in service
    patience = re.search(r"^TimeoutStopSec=(\d+)s$", service, re.MULTILINE)
    assert patience and int(patience[1]) > life.STOP_PATIENCE_S


@pytest.mark.parametrize("folder", ["usr/lib/systemd/system", "lib/systemd/system", ""])
def test_units_are_put_where_a_systemd_is(root: Root, release: Releases, folder: str) -> None:
    """Into the administrator's folder. Without a systemd there are none, and nobody is told to use it."""
    settings = {"DESTDIR": str(root.folder), "PREFIX": "/opt/podwire", "CNI_BIN_DIR": "/opt/cni/bin", "SYSTEMD_DIR": ""}
    if folder:
        (root.folder / folder).mkdir(parents=True)
    before = tree(root.folder)
    done = succeeded(root.install(release[1], **settings))
    units = root.folder / "etc/systemd/system"
    assert units.exists() == ("systemctl" in done.stdout) == bool(folder)
    if folder:
        assert sorted(tree(units)) == UNITS
        assert "ExecStart=/opt/podwire/bin/podwire agent" in (units / UNITS[0]).read_text()
    succeeded(root.uninstall(**settings))
    left = {"etc", "etc/systemd", "etc/systemd/system", "opt", "opt/cni", "opt/cni/bin"}
    assert tree(root.folder).keys() - before.keys() == (left if folder else {"opt", "opt/cni", "opt/cni/bin"})


def test_uninstall_takes_the_links_that_enabled_them(root: Root, release: Releases) -> None:
    succeeded(root.install(release[1]))
    for unit, wants in (("podwire-agent.socket", "sockets.target.wants"), ("podwire-agent.service", "multi-user.target.wants")):
        (root.units / wants).mkdir()
        (root.units / wants / unit).symlink_to(root.units / unit)
    (root.units / "sockets.target.wants/other.socket").symlink_to("/lib/systemd/system/other.socket")
    assert "systemctl" not in succeeded(root.install(release[2])).stdout  # it is on already
    succeeded(root.uninstall())
    assert sorted(tree(root.units)) == ["multi-user.target.wants", "sockets.target.wants", "sockets.target.wants/other.socket"]


def test_the_units_of_another_prefix_stay(root: Root, release: Releases) -> None:
    """The last installed one has the units, as it has the names."""
    succeeded(root.install(release[1], prefix="A"))
    succeeded(root.install(release[2], prefix="B"))
    succeeded(root.uninstall(prefix="A"))
    assert f"ExecStart={root.folder}/B/bin/podwire agent" in (root.units / UNITS[0]).read_text()
    succeeded(root.uninstall(prefix="B"))
    assert tree(root.units) == {}


def test_a_masked_unit_stays_masked(root: Root, release: Releases) -> None:
    root.units.mkdir()
    (root.units / UNITS[0]).symlink_to("/dev/null")
    done = succeeded(root.install(release[1]))
    assert f"kept {root.units}/{UNITS[0]}" in done.stdout
    assert "systemctl" not in done.stdout
    succeeded(root.uninstall())
    assert tree(root.units) == {UNITS[0]: "/dev/null"}


def test_a_prefix_that_units_could_not_name(root: Root, release: Releases) -> None:
    done = succeeded(root.install(release[1], prefix="A 100%"))
    assert "no units for systemd" in done.stdout
    assert not root.units.exists()
    assert root.says("bridge") == "podwire, release 1"
    succeeded(root.uninstall(prefix="A 100%"))


# While calls are running, with the real bundle.


@pytest.fixture
def installed(root: Root, bundle: Path) -> Root:
    succeeded(root.install(bundle))
    return root


def test_a_name_leads_to_the_client_of_the_release(installed: Root) -> None:
    """What `readlink -f` says, and so what the client finds itself and the program in."""
    (release,) = (installed.folder / "A/lib").glob("podwire-*")
    assert {os.path.realpath(installed.bin / name) for name in NAMES} == {f"{release}/shim"}
    assert os.path.realpath(installed.folder / "A/bin/podwire") == f"{release}/podwire"


def test_every_name_answers_by_way_of_the_folder(installed: Root) -> None:
    plugins = Executables(installed.bin, whose="podwire")
    for name in NAMES:
        told = plugins.call("VERSION", name, {"cniVersion": "1.0.0"}).result()
        assert "1.0.0" in told["supportedVersions"], name


class Running:
    """An ADD of host-local that waits for its configuration; what it imports then must still be in its own release.

    The native client waits so, and becomes the program of its release then; or the program itself does.
    """

    def __init__(self, command: tuple[str | Path, ...], plugins: Path, leases: Path) -> None:
        config = {"ipam": {"type": "host-local", "dataDir": str(leases), "ranges": [[{"subnet": "10.88.0.0/24"}]]}}
        self.config = {"cniVersion": "1.0.0", "name": "net", "type": "bridge", **config}
        env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0"}
        # It has become the client, or the program, when Popen returns.
        self.call = subprocess.Popen(
            command,
            env={"PATH": PATH, "CNI_PATH": str(plugins), "PODWIRE_SOCKET": "", **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def gets_an_address(self) -> None:
        """Let it go on; it must succeed."""
        out, _ = self.call.communicate(json.dumps(self.config).encode(), timeout=60)
        assert self.call.returncode == 0, out
        assert json.loads(out)["ips"][0]["address"] == "10.88.0.2/24"


@pytest.fixture(params=["client", "program"])
def running(installed: Root, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    program = (installed.folder / "A/bin/podwire", "host-local")
    made = Running(
        (installed.bin / "host-local",) if request.param == "client" else program, installed.bin, tmp_path / "leases"
    )
    yield made
    made.call.kill()
    made.call.communicate()


@pytest.mark.parametrize("prefix", ["A", "link"])
def test_upgrades_while_a_call_is_running(installed: Root, running: Running, release: Releases, prefix: str) -> None:
    """Two releases later its own is not the one before any more, and stays as long as it is used, whatever PREFIX says."""
    (installed.folder / "link").symlink_to("A")
    for number in (1, 2, 3):
        succeeded(installed.install(release[number], prefix=prefix))
    assert len(list((installed.folder / "A/lib").glob("podwire-*"))) == 3
    running.gets_an_address()
    succeeded(installed.install(release[4], prefix=prefix))
    assert len(list((installed.folder / "A/lib").glob("podwire-*"))) == 2


def test_uninstall_waits_for_a_running_call(installed: Root, running: Running) -> None:
    settings = {**installed.env, "PREFIX": f"{installed.folder}/A", "CNI_BIN_DIR": str(installed.bin)}
    removal = subprocess.Popen([INSTALL, "uninstall"], env=settings, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while os.path.lexists(installed.bin / "host-local"):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert removal.poll() is None
    running.gets_an_address()
    assert removal.wait(60) == 0
    assert tree(installed.folder) == {"bin": "0o40755"}


def test_installations_at_the_same_time(root: Root, release: Releases) -> None:
    """Each of them succeeds, one after the other; whichever was last, nothing is lost."""
    before = root.has_go_plugins()
    processes = []
    for number in range(6):
        settings = {**root.env, "PREFIX": f"{root.folder}/{'AB'[number % 2]}", "CNI_BIN_DIR": str(root.bin)}
        arguments = ["uninstall"] if number in (2, 3) else ["install", str(release[number])]
        processes.append(subprocess.Popen([INSTALL, *arguments], env=settings, stdout=subprocess.DEVNULL))
    assert [process.wait(60) for process in processes] == [0] * 6
    succeeded(root.uninstall(prefix="A"))
    succeeded(root.uninstall(prefix="B"))
    assert tree(root.bin) == before
    assert sorted(os.listdir(root.folder)) == ["bin", "go-loopback"]


# A node, from nothing to a pod and back.

LIST = {
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": True,
    "ipMasq": True,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
}


@pytest.mark.root
def test_a_pod_is_wired_from_the_installed_folder(node: Node, bundle: Path) -> None:
    """The README's way, with its default paths: make install, a pod's ADD, CHECK and DEL, make uninstall."""
    node.sh("mkdir -p /opt; mount -t tmpfs -o mode=755 tmpfs /opt; mkdir -p /opt/cni/bin; echo old >/opt/cni/bin/bridge")
    # Nothing is to be built here: the bundle is taken as it is.
    make = ("make", "-s", "-C", str(ROOT), "-o", "build/bundle/podwire", "DESTDIR=", "SYSTEMD_DIR=/run/units")
    node.run(*make, "install", env={"PATH": PATH}, timeout=120)
    netns = node.pod()

    def call(verb: str, **more: Any) -> bytes:
        env = {"PATH": PATH, "CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_NETNS": netns, "CNI_IFNAME": "eth0"}
        config = {"cniVersion": "1.0.0", "name": "net", **LIST, **more}
        return node.run("/opt/cni/bin/bridge", env={**env, "CNI_PATH": "/opt/cni/bin"}, stdin=json.dumps(config)).stdout

    result = json.loads(call("ADD"))
    assert result["ips"][0]["address"] == "10.77.0.2/24"
    assert node.pings("10.77.0.1", pod=os.path.basename(netns))
    call("CHECK", prevResult=result)
    call("DEL", prevResult=result)
    assert "eth0" not in observe.links(node, pod=os.path.basename(netns))
    assert not observe.leases(node, "net")
    node.run(*make, "uninstall", env={"PATH": PATH}, timeout=120)
    assert node.sh("cd /opt && find . -mindepth 1 | sort; cat cni/bin/bridge").split() == [
        "./cni",
        "./cni/bin",
        "./cni/bin/bridge",
        "old",
    ]
